"""The catalogue: the table of a source's usable labelled images, each image once, each known by its content.

Every file is read and hashed once, until it changes; only content that was never inspected before is decoded. What
can't be used is quarantined by name.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import pandas as pd
import pyarrow as pa

from tasks.errors import SourceError
from tasks.ingest.entries import Entry, Listing
from tasks.ingest.listing import listing_digest, listing_table, write_listing
from tasks.ingest.signatures import keep_signatures, known_signatures, signature_of
from tasks.ingest.sources import list_source
from tasks.modality import images, inspection
from tasks.modality.inspection import Inspection, inspection_store
from tasks.records import Catalogue, Run
from tasks.storage.assignments import work_of
from tasks.storage.quarantine import (
    Decisions,
    LeftOut,
    count_files,
    name_rows,
    quarantine,
    read_decisions,
    run_quarantine,
)
from tasks.storage.tables import CATALOGUE, write_table
from tasks.workspace import Workspace

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

FACTS = [name for name in inspection.SCHEMA.names if name not in ("sha256", "inspector")]
# Where the source gives copies of one image different splits: an image that may be in the test set must be.
SPLIT_PRIORITY = {"test": 0, "validation": 1, "train": 2}

# So many files are read between two writes of the inspection store: what a crash costs.
CHUNK_FILES = 4096
REMOTE_THREADS = 32


@dataclass(frozen=True, slots=True)
class Read:
    """What reading one entry gave. `inspection` is None where the content was known already, `stamp` where the file was
    (or where it has none to rely upon)."""

    entry: Entry
    sha256: str | None = None
    size_bytes: int = 0
    signature: bytes | None = None
    inspection: Inspection | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What need not be done again: the digests that were inspected, and the digest of each file by its stamp."""

    inspected: set[str]
    signatures: Mapping[bytes, str]


ReadParts = Callable[[Sequence[Sequence[Entry]]], Iterator[list[Read]]]


def build_catalogue(run: Run, progress: Progress | None = None, read_parts: ReadParts | None = None) -> Catalogue:
    """Lists, reads, hashes and inspects the run's source, and writes its catalogue.

    Args:
        run: names the source and the bounds of what is accepted.
        progress: told (files done, files in all) after each file.
        read_parts: `read_files` of each of some parts of the source, done elsewhere; None reads them here.

    Raises:
        SourceError: see `list_source`; or a file could not be read for a reason that may pass (its `__cause__`).
    """
    listing = list_source(run)
    listed = listing_table(listing.entries)  # before any file is read: what changes from now on will show as new
    if read_parts:
        reads = [read for part in read_parts(_cut(listing.entries)) for read in part]
        known = _known_inspections(run.workspace)  # what a part found that had to be read twice is there only
    else:
        known = _known_inspections(run.workspace)
        before = Known(set(known.index), known_signatures(run.workspace))
        reads = list(_read_all(run, listing.entries, before, progress))
    decisions = read_decisions(run.workspace, run.name)
    table, left_out = _assemble(run, reads, known, decisions)
    left_out += [LeftOut(item.path, None, item.label, item.reason) for item in listing.rejected]
    left_out = [item for item in left_out if not decisions.dropped(item.path, item.sha256, item.label)]
    quarantine(run, left_out)
    quarantined = count_files(run_quarantine(run))
    path = run.path("catalogue.parquet")
    digest = hashlib.sha256(repr([write_table(run.workspace, path, table), sorted(left_out, key=str)]).encode())
    write_listing(run, listed)
    _log_summary(listing, table, quarantined)
    return Catalogue(
        digest=digest.hexdigest(),
        images=len(table),
        quarantined=quarantined,
        source=run.source,
        work=work_of(run, digest.hexdigest()),
        table_path=path,
        folder=run.folder,
        listing=listing_digest(listed),
    )


def inspect_source(run: Run) -> None:
    """Fills the inspection store from the run's source, and does nothing else of `build_catalogue`."""
    read_files(run, list_source(run).entries)


def read_files(run: Run, entries: Sequence[Entry]) -> list[Read]:
    """Reads some files of the source and fills the inspection store: what a worker elsewhere does for a part."""
    return list(_read_all(run, entries, _known_before(run.workspace, run.run_id), None))


@lru_cache(maxsize=1)
def _known_before(workspace: Workspace, run_id: str) -> Known:
    """Read once by a process that does several parts of a run."""
    return Known(set(_known_inspections(workspace).index), known_signatures(workspace))


def _cut(entries: Sequence[Entry]) -> list[Sequence[Entry]]:
    return [entries[start : start + CHUNK_FILES] for start in range(0, len(entries), CHUNK_FILES)]


def _known_inspections(workspace: Workspace) -> pd.DataFrame:
    """Every stored inspection of this inspector, indexed by sha256."""
    parts = [part.to_pandas() for part in inspection_store(workspace).read()]
    stored = pd.concat(parts, ignore_index=True) if parts else inspection.SCHEMA.empty_table().to_pandas()
    stored = stored[stored["inspector"] == inspection.INSPECTOR].drop_duplicates("sha256")
    return stored.set_index("sha256")[FACTS]


def _read_all(run: Run, entries: Sequence[Entry], known: Known, progress: Progress | None) -> Iterator[Read]:
    """Reads each entry, on threads (the decoder, the hash and the disk all release Python's lock)."""
    remote = any("://" in entry.uri for entry in entries[:1])
    done = 0
    with ThreadPoolExecutor(REMOTE_THREADS if remote else os.cpu_count()) as pool:
        for part in _cut(entries):
            fresh: dict[str, Inspection] = {}
            signed_files: list[tuple[bytes, str]] = []
            for read in pool.map(lambda entry: _read(entry, run, known), part):
                if read.sha256 and read.inspection and not read.fault:
                    fresh[read.sha256] = read.inspection
                if read.sha256 and read.signature and not read.fault:
                    signed_files.append((read.signature, read.sha256))
                done += 1
                if progress:
                    progress(done, len(entries))
                yield read
            inspection_store(run.workspace).append(_inspection_table(fresh))
            keep_signatures(run.workspace, signed_files)
            known.inspected.update(fresh)


def _read(entry: Entry, run: Run, known: Known) -> Read:
    bounds = run.config.ingest
    try:
        status = Path(entry.uri).stat() if "://" not in entry.uri else None
        size = status.st_size if status else entry.size_bytes
        if size is not None and size > bounds.max_bytes:
            return Read(entry, fault=f"{size} bytes are more than the {bounds.max_bytes} allowed by ingest.max_bytes")
        signature = signature_of(entry, status)
        if size is not None and signature and known.signatures.get(signature) in known.inspected:
            return Read(entry, known.signatures[signature], size)
        content = images.read_bytes(entry.uri)
    except (SourceError, OSError) as exc:
        fault = exc if isinstance(exc, OSError) else exc.__cause__
        if isinstance(fault, FileNotFoundError | PermissionError | IsADirectoryError):
            return Read(entry, fault=f"it can't be read: {fault.strerror or fault}")
        raise
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 in known.inspected:
        return Read(entry, sha256, len(content), signature)
    found = inspection.inspect(content, bounds.max_pixels)
    return Read(entry, sha256, len(content), signature, found, found.fault)


def _inspection_table(fresh: dict[str, Inspection]) -> pa.Table:
    rows = [
        {"sha256": sha256, "inspector": inspection.INSPECTOR}
        | {field.name: getattr(found, field.name) for field in fields(found) if field.name != "fault"}
        for sha256, found in sorted(fresh.items())
    ]
    return pa.Table.from_pylist(rows, schema=inspection.SCHEMA)


def _assemble(
    run: Run, reads: Sequence[Read], known: pd.DataFrame, decisions: Decisions
) -> tuple[pd.DataFrame, list[LeftOut]]:
    """The catalogue of what was read, and all that is left out of it."""
    rename = run.config.validation.rename
    labels = {read.entry.label: rename.get(read.entry.label, read.entry.label) for read in reads}
    reads = [
        replace(read, entry=replace(read.entry, label=labels[read.entry.label]))
        for read in reads
        if not decisions.dropped(read.entry.path, read.sha256, labels[read.entry.label])
    ]
    left_out = [LeftOut(read.entry.path, read.sha256, read.entry.label, read.fault) for read in reads if read.fault]
    table = _join_facts([read for read in reads if not read.fault], known)
    bombs = table["width_px"] * table["height_px"] > run.config.ingest.max_pixels  # inspected under another bound
    reason = f"it has more pixels than the {run.config.ingest.max_pixels} allowed by ingest.max_pixels"
    left_out += name_rows(table[bombs], reason)
    agreed, disputed = _settle_conflicts(table[~bombs], decisions)
    return _merge_copies(agreed), left_out + disputed


def _join_facts(sound: Sequence[Read], known: pd.DataFrame) -> pd.DataFrame:
    """A row for each sound file, with the facts of its content."""
    fresh = _inspection_table({read.sha256: read.inspection for read in sound if read.sha256 and read.inspection})
    facts = pd.concat([known, fresh.to_pandas().set_index("sha256")[FACTS]])
    columns = {
        "sha256": [read.sha256 for read in sound],
        "label": [read.entry.label for read in sound],
        "split": [read.entry.split for read in sound],
        "path": [read.entry.path for read in sound],
        "uri": [read.entry.uri for read in sound],
        "size_bytes": [read.size_bytes for read in sound],
    }
    return pd.DataFrame(columns, dtype=object).join(facts[~facts.index.duplicated()], on="sha256")


def _settle_conflicts(table: pd.DataFrame, decisions: Decisions) -> tuple[pd.DataFrame, list[LeftOut]]:
    """A picture under two labels: nobody can tell which is right, so each copy is left out, naming the others; unless
    a person released it under one of them."""
    conflicts = table.groupby("sha256")["label"].transform("nunique") > 1
    chosen = decisions.released_labels()
    kept, found = [table[~conflicts]], []
    for sha256, copies in table[conflicts].groupby("sha256"):
        labels = chosen.get(str(sha256), set()) & set(copies["label"])
        if len(labels) == 1:
            right = copies["label"].isin(labels)
            kept.append(copies[right])
            found += name_rows(copies[~right], f"the same picture was released with the label {labels.pop()!r}", True)
        else:
            found += _conflict(copies)
    return pd.concat(kept), found


def _conflict(copies: pd.DataFrame) -> list[LeftOut]:
    rows = name_rows(copies, "", releasable=True)
    found = []
    for row in rows:
        others = {other.label: other.path for other in rows if other.label != row.label}
        named = ", ".join(f"{label!r} ({path})" for label, path in others.items())
        found.append(row._replace(reason=f"the same picture also has the label {named}"))
    return found


def _merge_copies(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each image: the first path, and of the given splits the one that guards the test set best."""
    table = table.assign(priority=table["split"].map(SPLIT_PRIORITY)).sort_values(["sha256", "label", "path"])
    copies = table.groupby("sha256")
    if differing := int((copies["split"].nunique() > 1).sum()):
        log.warning(
            "%d images lie in several splits of the source: of those, test is taken before validation before train",
            differing,
        )
    best = copies["priority"].transform("min").map({place: name for name, place in SPLIT_PRIORITY.items()})
    merged = table.assign(copies=copies["path"].transform("size"), split=best.astype(object), group=None)
    return merged.drop_duplicates("sha256")[CATALOGUE.names].reset_index(drop=True)


def _log_summary(listing: Listing, table: pd.DataFrame, quarantined: int) -> None:
    log.info(
        "%d images in %d classes; %d files quarantined, %d of no interest skipped",
        len(table),
        table["label"].nunique(),
        quarantined,
        listing.skipped,
    )
