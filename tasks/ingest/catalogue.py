"""The catalogue: a table of a source's usable labelled images, one row for each distinct content.

Files that can't be used are quarantined by name.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from tasks.ingest.corrected import DROPPED, Corrected, correct
from tasks.ingest.entries import Entry
from tasks.ingest.listing import listing_digest, listing_table, write_listing
from tasks.ingest.reading import Known, Progress, Read, chunks, inspection_table, read_all, stored_inspections
from tasks.ingest.signatures import known_signatures
from tasks.ingest.sources import list_source
from tasks.modality.kinds import Kind, kind_of
from tasks.modality.wording import worded
from tasks.records import Catalogue, Run
from tasks.storage.assignments import work_of
from tasks.storage.corrections import APPLIED, read_corrections
from tasks.storage.quarantine import (
    Decisions,
    LeftOut,
    count_by_reason,
    count_files,
    name_rows,
    quarantine,
    read_decisions,
    run_quarantine,
)
from tasks.storage.tables import catalogue_schema, write_table

log = logging.getLogger(__name__)

# Where the source puts copies of one image into several splits, the lowest wins: test images must not be trained on.
SPLIT_PRIORITY = {"test": 0, "validation": 1, "train": 2}

COPY_IN_ANOTHER_SPLIT = "a copy of an image in another split, which is used there"

NAMED = 10  # rows of corrections without effect that the log names

ReadParts = Callable[[Sequence[Sequence[Entry]]], Iterator[list[Read]]]


def build_catalogue(
    run: Run, progress: Progress = lambda done, total: None, read_parts: ReadParts | None = None
) -> Catalogue:
    """Lists, reads, hashes and inspects the run's source, and writes its catalogue.

    Args:
        progress: called with (files done, files in total) after each file.
        read_parts: calls `read_files` on each part of the source in other processes; None reads in this one.

    Raises:
        SourceError: see `list_source`; or a file could not be read for a temporary reason (its `__cause__`).
    """
    kind = kind_of(run.config)
    listing = list_source(run)
    corrections = read_corrections(run.workspace)
    listed = listing_table(listing.entries, corrections)  # before any file is read: later changes then show as new
    if read_parts:
        reads = [read for part in read_parts(chunks(listing.entries)) for read in part]
        inspections = stored_inspections(run.workspace, kind)  # a part that was read twice returns no inspections
    else:
        inspections = stored_inspections(run.workspace, kind)
        known = Known(set(inspections.index), known_signatures(run.workspace))
        reads = list(read_all(run, listing.entries, known, progress))
    decisions = read_decisions(run.workspace, run.name)
    renamed = _undropped(_renamed(reads, run.config.validation.rename), decisions)
    corrected = correct(renamed, corrections, run.config.validation.rename)
    _report(run, corrected)
    table, left_out, copies = _assemble(run, _undropped(corrected.reads, decisions), inspections, decisions)
    left_out += [LeftOut(item.path, None, item.label, item.reason) for item in listing.rejected]
    left_out = [item for item in left_out if not decisions.dropped(item.path, item.sha256, item.label)]
    quarantine(run, left_out)
    quarantined = count_files(run_quarantine(run))
    path = run.path("catalogue.parquet")
    digest = hashlib.sha256(
        repr([write_table(run.workspace, path, table, catalogue_schema(kind.task)), sorted(left_out, key=str)]).encode()
    )
    write_listing(run, listed)
    counted = Counter(listing.left_out.values())
    counted += Counter({worded(COPY_IN_ANOTHER_SPLIT, kind.task): copies, DROPPED: corrected.dropped_files})
    ignored = dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))
    log.info("%d %s in %d classes; %d quarantined", len(table), kind.items, table["label"].nunique(), quarantined)
    if ignored:
        log.info("%d files left out: %s", sum(ignored.values()), count_by_reason(ignored))
    return Catalogue(
        digest=digest.hexdigest(),
        images=len(table),
        quarantined=quarantined,
        source=run.source,
        work=work_of(run, digest.hexdigest()),
        table_path=path,
        folder=run.folder,
        listing=listing_digest(listed),
        left_out=ignored,
        corrected=len(corrected.changed),
        dropped=len(corrected.dropped),
    )


def _renamed(reads: Sequence[Read], rename: Mapping[str, str]) -> list[Read]:
    """The files under the present names of their classes."""
    return [
        replace(read, entry=replace(read.entry, label=rename[read.entry.label])) if read.entry.label in rename else read
        for read in reads
    ]


def _undropped(reads: Sequence[Read], decisions: Decisions) -> list[Read]:
    """Without the files that a person dropped from the quarantine, under this label."""
    return [read for read in reads if not decisions.dropped(read.entry.path, read.sha256, read.entry.label)]


def _report(run: Run, corrected: Corrected) -> None:
    """Keeps what corrections did, for the report, and names what they could not do."""
    found = corrected.to_json()
    if any(found.values()):
        run.workspace.write_json(run.path(APPLIED), found)
    for sentence in corrected.without_effect[:NAMED]:
        log.warning("corrections.csv, %s", sentence)
    if (more := len(corrected.without_effect) - NAMED) > 0:
        log.warning("corrections.csv: %d more rows have no effect; the report names them", more)
    if corrected.absent:
        log.info("corrections.csv: %d decisions are about what this source does not hold", corrected.absent)


def _assemble(
    run: Run, reads: Sequence[Read], inspections: pd.DataFrame, decisions: Decisions
) -> tuple[pd.DataFrame, list[LeftOut], int]:
    """The catalogue, the files that are quarantined, and the count of those that are copies in another split."""
    left_out = [LeftOut(read.entry.path, read.sha256, read.entry.label, read.fault) for read in reads if read.fault]
    kind, bounds = kind_of(run.config), run.config.ingest
    table = _join_facts([read for read in reads if not read.fault], inspections, kind)
    too_large, why = kind.too_large(table, bounds)  # inspected earlier, under another bound
    left_out += name_rows(table[too_large], why)
    agreed, disputed = _resolve_conflicts(table[~too_large], decisions, kind)
    merged, copies = _merge_copies(agreed, kind)
    return merged, left_out + disputed, copies


def _join_facts(sound: Sequence[Read], inspections: pd.DataFrame, kind: Kind) -> pd.DataFrame:
    """A row for each sound file, with the inspection of its content."""
    fresh = inspection_table({read.sha256: read.inspection for read in sound if read.sha256 and read.inspection}, kind)
    facts = pd.concat([inspections, fresh.to_pandas().set_index("sha256")[kind.facts]])
    columns = {
        "sha256": [read.sha256 for read in sound],
        "label": [read.entry.label for read in sound],
        "split": [read.entry.split for read in sound],
        "path": [read.entry.path for read in sound],
        "uri": [read.entry.uri for read in sound],
        "size_bytes": [read.size_bytes for read in sound],
    }
    return pd.DataFrame(columns, dtype=object).join(facts[~facts.index.duplicated()], on="sha256")


def _resolve_conflicts(table: pd.DataFrame, decisions: Decisions, kind: Kind) -> tuple[pd.DataFrame, list[LeftOut]]:
    """Leaves out each item that has several labels, unless a person released it under one of them."""
    conflicts = table.groupby("sha256")["label"].transform("nunique") > 1
    chosen = decisions.released_labels()
    kept, found = [table[~conflicts]], []
    for sha256, copies in table[conflicts].groupby("sha256"):
        labels = chosen.get(str(sha256), set()) & set(copies["label"])
        if len(labels) == 1:
            right = copies["label"].isin(labels)
            kept.append(copies[right])
            why = f"the same {kind.item} was released with the label {labels.pop()!r}"
            found += name_rows(copies[~right], why, True)
        else:
            found += _conflict(copies, kind)
    return pd.concat(kept), found


def _conflict(copies: pd.DataFrame, kind: Kind) -> list[LeftOut]:
    """Every copy of an item with several labels; each reason names the other copies."""
    rows = name_rows(copies, "", releasable=True)
    found = []
    for row in rows:
        others = {other.label: other.path for other in rows if other.label != row.label}
        named = ", ".join(f"{label!r} ({path})" for label, path in others.items())
        found.append(row._replace(reason=f"the same {kind.item} also has the label {named}"))
    return found


def _merge_copies(table: pd.DataFrame, kind: Kind) -> tuple[pd.DataFrame, int]:
    """One row for each item: the first path, and the split of the highest priority; and how many files had another."""
    table = table.assign(priority=table["split"].map(SPLIT_PRIORITY)).sort_values(["sha256", "label", "path"])
    copies = table.groupby("sha256")
    first = copies["priority"].transform("min")
    beaten = table["priority"].notna() & (table["priority"] != first)
    if differing := int(table.loc[beaten, "sha256"].nunique()):
        log.warning(
            "%d %s are in several splits of the source, such as %s; test wins over validation over train",
            *(differing, kind.items, ", ".join(table.loc[beaten, "path"].head(3))),
        )
    best = first.map({place: name for name, place in SPLIT_PRIORITY.items()})
    merged = table.assign(copies=copies["path"].transform("size"), split=best.astype(object), group=None)
    return merged.drop_duplicates("sha256")[catalogue_schema(kind.task).names].reset_index(drop=True), int(beaten.sum())
