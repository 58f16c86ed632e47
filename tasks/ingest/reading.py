"""Reads, hashes and inspects the files of a source.

A file is read again only after it changed, and content is decoded only once: inspections are stored by digest.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from tasks.errors import SourceError
from tasks.ingest.entries import Entry, printable
from tasks.ingest.signatures import keep_signatures, known_signatures, signature_of
from tasks.modality import items
from tasks.modality.kinds import KINDS, Kind, kind_of
from tasks.records import Run
from tasks.workspace import Workspace

Progress = Callable[[int, int], None]

CHUNK_FILES = 4096  # read between two writes of the inspection store: what a crash costs
REMOTE_THREADS = 32
# What a local disk or a mounted share says when it is not well; anything else is the fault of the one file.
STORAGE_FAULTS = frozenset(
    {errno.EAGAIN, errno.ETIMEDOUT, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EHOSTDOWN}
    | {errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH}
    | {errno.ENOTCONN}
)


@dataclass(frozen=True, slots=True)
class Read:
    """The result of reading one entry.

    `inspection` is None where the content was inspected before; `signature` is None where the file is unchanged since
    it was last read, or has no reliable signature; `fault` is why the file can't be used.
    """

    entry: Entry
    sha256: str | None = None
    size_bytes: int = 0
    signature: bytes | None = None
    inspection: Any = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """Content that needs no new work: digests that were inspected, and digests of files by their signature."""

    inspected: set[str]
    signatures: Mapping[bytes, str]


def read_files(run: Run, entries: Sequence[Entry]) -> list[Read]:
    """Reads some files of the source and fills the inspection store; safe in any process."""
    return list(read_all(run, entries, _known_before(run.workspace, run.config.task, run.run_id)))


@lru_cache(maxsize=1)
def _known_before(workspace: Workspace, task: str, run_id: str) -> Known:
    """Loaded once by a process that reads several parts of a run."""
    return Known(set(stored_inspections(workspace, KINDS[task]).index), known_signatures(workspace))


def chunks(entries: Sequence[Entry]) -> list[Sequence[Entry]]:
    """The entries in parts of at most `CHUNK_FILES`."""
    return [entries[start : start + CHUNK_FILES] for start in range(0, len(entries), CHUNK_FILES)]


def stored_inspections(workspace: Workspace, kind: Kind) -> pd.DataFrame:
    """All inspections by the current inspector of such items, indexed by sha256."""
    parts = [part.to_pandas() for part in kind.store(workspace).read()]
    stored = pd.concat(parts, ignore_index=True) if parts else kind.schema.empty_table().to_pandas()
    stored = stored[stored["inspector"] == kind.inspector].drop_duplicates("sha256")
    return stored.set_index("sha256")[kind.facts]


def inspection_table(fresh: Mapping[str, Any], kind: Kind) -> pa.Table:
    """Inspections by digest, as rows of the inspection store."""
    rows = [
        {"sha256": sha256, "inspector": kind.inspector}
        | {field.name: getattr(found, field.name) for field in fields(found) if field.name != "fault"}
        for sha256, found in sorted(fresh.items())
    ]
    return pa.Table.from_pylist(rows, schema=kind.schema)


def read_all(
    run: Run, entries: Sequence[Entry], known: Known, progress: Progress = lambda done, total: None
) -> Iterator[Read]:
    """Reads each entry on threads: the decoder, the hash and the disk all release Python's lock."""
    remote = any("://" in entry.uri for entry in entries[:1])
    kind = kind_of(run.config)
    done = 0
    with ThreadPoolExecutor(REMOTE_THREADS if remote else os.cpu_count()) as pool:
        for part in chunks(entries):
            fresh: dict[str, Any] = {}
            signed_files: list[tuple[bytes, str]] = []
            for read in pool.map(lambda entry: _read(entry, run, known), part):
                if read.sha256 and not read.fault:
                    if read.inspection:
                        fresh[read.sha256] = read.inspection
                    if read.signature:
                        signed_files.append((read.signature, read.sha256))
                done += 1
                progress(done, len(entries))
                yield read
            kind.store(run.workspace).append(inspection_table(fresh, kind))
            keep_signatures(run.workspace, signed_files)
            known.inspected.update(fresh)


def _read(entry: Entry, run: Run, known: Known) -> Read:
    """Reads and inspects one file; what is wrong with it is its fault, and ends nothing else.

    Raises:
        SourceError: the storage does not answer, which another attempt may mend.
    """
    bounds = run.config.ingest
    try:
        local = "://" not in entry.uri and not items.is_inline(entry.uri)
        status = Path(entry.uri).stat() if local else None
        if status and not stat.S_ISREG(status.st_mode):
            return Read(entry, fault=f"it is {items.file_kind(status.st_mode)}, not a file")
        size = status.st_size if status else entry.size_bytes
        if size is not None and size > bounds.max_bytes:
            return Read(entry, fault=f"the file has {size} bytes (ingest.max_bytes: at most {bounds.max_bytes})")
        signature = signature_of(entry, status)
        if size is not None and signature and known.signatures.get(signature) in known.inspected:
            return Read(entry, known.signatures[signature], size)
        content = items.read_bytes(entry.uri, bounds.max_bytes)
    except Exception as exc:  # a file's fault, whatever it is, unless it is the storage's
        if _is_of_the_storage(exc):
            raise
        return Read(entry, fault=f"it can't be read: {_why(exc)}")
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 in known.inspected:
        return Read(entry, sha256, len(content), signature)
    found = kind_of(run.config).inspect(content, bounds)
    return Read(entry, sha256, len(content), signature, found, found.fault)


def _is_of_the_storage(exc: BaseException) -> bool:
    """Whether a fault says something of the storage or the network, and not of the one file."""
    cause = exc.__cause__ if isinstance(exc, SourceError) else exc
    if isinstance(cause, items.GONE):
        return False
    if isinstance(cause, OSError):
        return cause.errno is None or cause.errno in STORAGE_FAULTS
    return not isinstance(cause, ValueError | ImportError | None)


def _why(exc: BaseException) -> str:
    fault = exc if isinstance(exc, OSError) else exc.__cause__ or exc
    return printable((fault.strerror if isinstance(fault, OSError) else None) or str(fault) or type(fault).__name__)
