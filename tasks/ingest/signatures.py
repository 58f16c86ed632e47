"""File signatures: a file whose signature is unchanged since it was last read is not read again.

On a local disk, a signature holds the size, the inode, and the times of modification and of change. The time of change
(ctime) can't be set by hand, so copies that preserve their times are noticed. On an object store it is the object's
entity tag. As in git's index, a file that changed in the last seconds gets no signature: the clock may be too coarse to
show a second change.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable

import pyarrow as pa

from tasks.ingest.entries import Entry
from tasks.storage.part_store import PartStore
from tasks.workspace import Workspace

SETTLED_S = 2.0  # the coarsest clock of a common file system (FAT)
SCHEMA = pa.schema([("stamp", pa.binary(32)), ("sha256", pa.binary(32))])


def signature_store(workspace: Workspace) -> PartStore:
    return PartStore(workspace, "stamps", SCHEMA, key=("stamp", "sha256"))


def signature_of(entry: Entry, status: os.stat_result | None) -> bytes | None:
    """SHA-256 of a file's address and signature; None where no signature is reliable.

    Args:
        status: of a local file, taken before it is read; None for an object.
    """
    if status is None:
        signature = entry.etag
    elif time.time() - max(status.st_mtime, status.st_ctime) < SETTLED_S:
        signature = None
    else:
        signature = f"{status.st_size} {status.st_dev} {status.st_ino} {status.st_mtime_ns} {status.st_ctime_ns}"
    if not signature:
        return None
    return hashlib.sha256(f"{entry.uri}\0{signature}".encode(errors="surrogateescape")).digest()


def known_signatures(workspace: Workspace) -> dict[bytes, str]:
    """The SHA-256 of each file's content, in hexadecimal, by the file's signature."""
    known: dict[bytes, str] = {}
    for part in signature_store(workspace).read():
        digests = (digest.hex() for digest in part["sha256"].to_pylist())
        known.update(zip(part["stamp"].to_pylist(), digests, strict=True))
    return known


def keep_signatures(workspace: Workspace, found: Iterable[tuple[bytes, str]]) -> None:
    """Adds (signature, SHA-256 in hexadecimal) of files that were read."""
    rows = sorted(set(found))
    columns = [[signature for signature, _ in rows], [bytes.fromhex(sha256) for _, sha256 in rows]]
    signature_store(workspace).append(pa.table(columns, schema=SCHEMA))
