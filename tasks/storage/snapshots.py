"""Snapshots: `snapshots/<id>.parquet`, a data set as it was at one moment, whose name is the digest of its content.

They are the truth that the rest is rebuilt from, so one that does not give its name is an error and not made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import DamagedFileError
from tasks.records import Run
from tasks.storage.tables import snapshot_schema, write_table
from tasks.workspace import Workspace

ID_LENGTH = 16
IDENTITY = ("sha256", "label", "split")

# Of each snapshot that gave its name to this process: its file's digest.
_verified: set[tuple[str, str]] = set()


def snapshot_path(snapshot: str) -> str:
    return f"snapshots/{snapshot}.parquet"


def snapshot_id(table: pd.DataFrame) -> str:
    """The first 16 hex digits of the SHA-256 over the lines `sha256,label,split`, tab-separated, sorted.

    It is taken over the content and not over a file, whose bytes differ between versions of Parquet's writer.
    """
    lines = sorted(table["sha256"] + "\t" + table["label"] + "\t" + table["split"])
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:ID_LENGTH]


def read_snapshot(workspace: Workspace, snapshot: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A snapshot's rows, sorted by (sha256, label), with some of the columns of `tasks.storage.tables.snapshot_schema`.

    Raises:
        DamagedFileError: its content does not give its name, or can't be read.
        WorkspaceError: there is no such snapshot.
    """
    path = snapshot_path(snapshot)
    content = workspace.read_bytes(path)
    seen = (workspace.display(path), hashlib.sha256(content).hexdigest())
    try:
        if seen not in _verified and snapshot_id(_columns(content, IDENTITY)) != snapshot:
            raise ValueError("its content does not give its name")
        table = _columns(content, columns)
    except (pa.ArrowException, ValueError, KeyError, TypeError) as exc:
        raise DamagedFileError(
            f"the snapshot {workspace.display(path)} is damaged: {exc}; put it back from a backup. Without one, remove "
            "it and give its source to a new run: splits are kept in snapshots/assignments"
        ) from exc
    _verified.add(seen)
    return table


def _columns(content: bytes, columns: Sequence[str] | None) -> pd.DataFrame:
    return pq.read_table(pa.BufferReader(content), columns=columns and list(columns)).to_pandas()


def write_snapshot(run: Run, table: pd.DataFrame) -> str:
    """Writes a table as a snapshot of the run's model, and returns its id.

    One that is there already is written again where it is of other models only, or where its images lie elsewhere by
    now: the source was moved, or the workspace in which the images of tensorflow-datasets are kept.
    """
    identity = snapshot_id(table)
    path = snapshot_path(identity)
    names: list[str] = []
    places = None
    if run.workspace.exists(path):
        names = snapshot_names(pq.read_schema(pa.BufferReader(run.workspace.read_bytes(path))))
        places = read_snapshot(run.workspace, identity, ["uri"])["uri"].tolist()
    if run.name not in names or places != table["uri"].tolist():
        metadata = {"names": " ".join(sorted({*names, run.name}))}
        write_table(run.workspace, path, table, snapshot_schema(run.config.task).with_metadata(metadata))
    return identity


def snapshot_names(schema: pa.Schema) -> list[str]:
    """The models that a snapshot was made for; two models on the same data share one."""
    return (schema.metadata or {}).get(b"names", b"").decode().split()
