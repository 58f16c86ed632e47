"""Which content a file had when it was last read: a file that was not touched since need not be read again.

A file's stamp is, on a local disk, its size, inode and times of last modification and of last change; that last one
(ctime) can't be set by hand, so that a copy which carries its times over shows too. On an object store it is the
object's entity tag. As with git's index, a stamp is not kept of a file that changed in the seconds before it was read:
a clock may give a second change the same time.
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

SETTLED_S = 2.0  # the coarsest times of a file system in use (FAT)
SCHEMA = pa.schema([("stamp", pa.binary(32)), ("sha256", pa.binary(32))])


def signature_store(workspace: Workspace) -> PartStore:
    return PartStore(workspace, "stamps", SCHEMA, key=("stamp", "sha256"))


def signature_of(entry: Entry, status: os.stat_result | None) -> bytes | None:
    """SHA-256 of a file's address and stamp; None where it has none that can be relied upon.

    Args:
        status: of a local file, taken before it is read; None for an object.
    """
    if status is None:
        mark = entry.etag
    elif time.time() - max(status.st_mtime, status.st_ctime) < SETTLED_S:
        mark = None
    else:
        mark = f"{status.st_size} {status.st_dev} {status.st_ino} {status.st_mtime_ns} {status.st_ctime_ns}"
    if not mark:
        return None
    return hashlib.sha256(f"{entry.uri}\0{mark}".encode(errors="surrogateescape")).digest()


def known_signatures(workspace: Workspace) -> dict[bytes, str]:
    """The SHA-256 of each stamped file's content, in hexadecimal."""
    known: dict[bytes, str] = {}
    for part in signature_store(workspace).read():
        digests = (digest.hex() for digest in part["sha256"].to_pylist())
        known.update(zip(part["stamp"].to_pylist(), digests, strict=True))
    return known


def keep_signatures(workspace: Workspace, found: Iterable[tuple[bytes, str]]) -> None:
    """Adds (stamp, SHA-256 in hexadecimal) of files that were read."""
    rows = sorted(set(found))
    columns = [[signature for signature, _ in rows], [bytes.fromhex(sha256) for _, sha256 in rows]]
    signature_store(workspace).append(pa.table(columns, schema=SCHEMA))
