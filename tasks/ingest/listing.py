"""The listing of a source at one moment, as a table: comparing two shows what is new, without reading a file.

What people decided about labels (`tasks.storage.corrections`) is listed like a file: it changes what a run comes to.

A run writes the listing that it used. After its verdict, that listing becomes the model's last one,
`listings/<name>.parquet`. Labelled files that are not in it are new.
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
from tasks.modality.items import is_inline
from tasks.records import Run
from tasks.storage.corrections import Corrections
from tasks.storage.tables import read_table, write_table
from tasks.workspace import Workspace

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),  # null where the source gives none
        ("mark", pa.string()),  # the file's signature, which changes with its content; null where unknown
    ]
)
COLUMNS = SCHEMA.names
DECISION = "corrections.csv: "  # before the digest of the image, in place of a file's path
FILE = "listing.parquet"


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The difference between a source and the listing of the model's last run."""

    listing: str  # the digest of the source's present listing
    total: int  # labelled files
    new: int  # labelled files that are new, changed or relabelled
    removed: int  # files that are no longer listed
    classes: dict[str, int]  # new files by label
    corrected: int = 0  # decisions about labels that were made or taken back

    @property
    def changes(self) -> int:
        return self.new + self.corrected


def listing_table(entries: Iterable[Entry], corrections: Corrections) -> pd.DataFrame:
    """A row for each entry, with the present signature of each file, and for each decision that counts; sorted."""
    rows = [(_name(entry), entry.label, entry.split, _signature(entry)) for entry in entries]
    rows += [(f"{DECISION}{sha256}", row.label, None, str(row.line)) for sha256, row in corrections.standing().items()]
    return pd.DataFrame(sorted(rows, key=lambda row: row[:2]), columns=COLUMNS, dtype=object)


def listing_digest(table: pd.DataFrame) -> str:
    """SHA-256 over each file's path, label, split and signature."""
    digest = hashlib.sha256()
    for row in table[COLUMNS].itertuples(index=False, name=None):
        digest.update("\t".join(map(str, row)).encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()


def write_listing(run: Run, table: pd.DataFrame) -> None:
    """Keeps the listing that a run used, for `remember_listing`."""
    write_table(run.workspace, run.path(FILE), table, SCHEMA)


def remember_listing(run: Run) -> None:
    """Makes the run's listing the model's last one, after the verdict. Safe to repeat after a crash."""
    if run.workspace.exists(run.path(FILE)):
        run.workspace.write_bytes(last_path(run.name), run.workspace.read_bytes(run.path(FILE)))
        run.workspace.remove(run.path(FILE))


def last_path(name: str) -> str:
    return f"listings/{name}.parquet"


def last_listing(workspace: Workspace, name: str) -> pd.DataFrame:
    """The listing of the model's last run with a verdict; an empty table before the first."""
    try:
        table = read_table(workspace, last_path(name), COLUMNS).astype(object)
    except WorkspaceError as exc:
        if isinstance(exc.__cause__, FileNotFoundError):
            return pd.DataFrame(columns=COLUMNS, dtype=object)
        raise
    return table.where(table.notna(), None)


def arrivals(now: pd.DataFrame, last: pd.DataFrame) -> Arrivals:
    """How `now` differs from `last`, both as `listing_table` makes them."""
    (files, decisions), (last_files, last_decisions) = _kinds(now), _kinds(last)
    known = _rows(last_files)
    new = [row not in known for row in files[COLUMNS].itertuples(index=False, name=None)]
    classes = files["label"][new].value_counts()
    return Arrivals(
        listing=listing_digest(now),
        total=len(files),
        new=sum(new),
        removed=int((~last_files["path"].isin(files["path"])).sum()),
        classes={str(label): int(count) for label, count in sorted(classes.items())},
        corrected=len({row[0] for row in _rows(decisions) ^ _rows(last_decisions)}),
    )


def _kinds(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The files of a listing, and the decisions."""
    decided = table["path"].astype(str).str.startswith(DECISION)
    return table[~decided], table[decided]


def _rows(table: pd.DataFrame) -> set[tuple[str | None, ...]]:
    return set(table[COLUMNS].itertuples(index=False, name=None))


def _name(entry: Entry) -> str:
    """The path of a file; of a text in a table its digest, for lines may be inserted above it."""
    return hashlib.sha256(entry.uri.encode()).hexdigest() if is_inline(entry.uri) else entry.path


def _signature(entry: Entry) -> str | None:
    """A local file's size and time, or the signature from the remote listing; none of a text in a table."""
    if is_inline(entry.uri):
        return None
    if "://" in entry.uri:
        return entry.signature
    try:
        status = os.stat(entry.uri)  # noqa: PTH116 - faster than Path
    except OSError:
        return None
    return f"{status.st_size}-{status.st_mtime_ns}"
