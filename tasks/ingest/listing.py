"""What a source listed at one moment, as a table: what tells a source that grew from one that did not.

A run writes the listing that it read, and when it has come to a verdict that listing becomes the model's last one,
`listings/<name>.parquet`. What is labelled in the source and not in there is new; no file needs to be read to tell.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from tasks.errors import WorkspaceError
from tasks.ingest.entries import Entry
from tasks.records import Run
from tasks.storage.tables import read_table, write_table
from tasks.workspace import Workspace

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),  # null where the source gives none
        ("mark", pa.string()),  # changes with the file's content; null where that is not known, or the file is absent
    ]
)
COLUMNS = SCHEMA.names
FILE = "listing.parquet"


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What a source holds that the model's last run had not."""

    listing: str  # the digest of all that the source lists now
    total: int  # labelled files
    new: int  # of those, that were not there, or were another file, or had another label
    removed: int  # that are there no more
    classes: dict[str, int]  # the new ones by label


def listing_table(entries: Iterable[Entry]) -> pd.DataFrame:
    """A row for each entry, sorted; a local file's mark is looked up now."""
    rows = [(entry.path, entry.label, entry.split, _mark(entry)) for entry in entries]
    return pd.DataFrame(sorted(rows, key=lambda row: row[:2]), columns=COLUMNS, dtype=object)


def listing_digest(table: pd.DataFrame) -> str:
    """SHA-256 over each file's path, label, split and mark."""
    digest = hashlib.sha256()
    for row in table[COLUMNS].itertuples(index=False, name=None):
        digest.update("\t".join(map(str, row)).encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()


def write_listing(run: Run, table: pd.DataFrame) -> None:
    """Keeps what a run listed, for `remember_listing`."""
    write_table(run.workspace, run.path(FILE), table, SCHEMA)


def remember_listing(run: Run) -> None:
    """The run came to a verdict: what it listed is now the model's last listing.

    Where the process dies between the two steps, the same is done again, or the run's copy stays: it does no harm.
    """
    if run.workspace.exists(run.path(FILE)):
        run.workspace.write_bytes(last_path(run.name), run.workspace.read_bytes(run.path(FILE)))
        run.workspace.remove(run.path(FILE))


def last_path(name: str) -> str:
    return f"listings/{name}.parquet"


def last_listing(workspace: Workspace, name: str) -> pd.DataFrame:
    """What the model's last run with a verdict listed; an empty table before the first."""
    try:
        table = read_table(workspace, last_path(name), COLUMNS).astype(object)
    except WorkspaceError as exc:
        if isinstance(exc.__cause__, FileNotFoundError):
            return pd.DataFrame(columns=COLUMNS, dtype=object)
        raise
    return table.where(table.notna(), None)


def arrivals(now: pd.DataFrame, last: pd.DataFrame) -> Arrivals:
    """How `now` differs from `last`, both as `listing_table` makes them."""
    known = set(last[COLUMNS].itertuples(index=False, name=None))
    new = [row not in known for row in now[COLUMNS].itertuples(index=False, name=None)]
    classes = now["label"][new].value_counts()
    return Arrivals(
        listing=listing_digest(now),
        total=len(now),
        new=sum(new),
        removed=int((~last["path"].isin(now["path"])).sum()),
        classes={str(label): int(count) for label, count in sorted(classes.items())},
    )


def _mark(entry: Entry) -> str | None:
    """What changes whenever the file is written again: the size and the time of a local one, and of one elsewhere what
    the listing of the storage said."""
    if "://" in entry.uri:
        return entry.mark
    try:
        status = os.stat(entry.uri)  # noqa: PTH116 - quicker
    except OSError:
        return None
    return f"{status.st_size}-{status.st_mtime_ns}"
