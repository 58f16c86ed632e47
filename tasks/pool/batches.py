"""What was handed out for labelling: `labelling/<name>/<run_id>/batch.parquet`, written last, of each batch.

A batch lists its images, so what was handed out is what the batches list: removing a batch's folder forgets it.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa

from tasks.errors import UsageError
from tasks.storage.tables import read_table, write_table
from tasks.workspace import Workspace

FILE = "batch.parquet"
SUMMARY = "summary.json"
POOL = "pool.parquet"  # of the last pool: `headstart clean` keeps its rows

SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("path", pa.string()),  # in the pool
        ("uri", pa.string()),
        ("reason", pa.string()),  # of `tasks.pool.selection.REASONS`
        ("label", pa.string()),  # the likeliest class
        ("probability", pa.float32()),
        ("second_label", pa.string()),
        ("second_probability", pa.float32()),
        ("near_uris", pa.list_(pa.string())),  # the most similar labelled images, the nearest first
        ("near_labels", pa.list_(pa.string())),
    ]
)
POOL_SCHEMA = pa.schema([("path", pa.string()), ("uri", pa.string()), ("sha256", pa.string())])


def labelling_folder(name: str) -> str:
    return f"labelling/{name}"


def batch_folders(workspace: Workspace, name: str) -> list[str]:
    """The folders of a model's finished batches, oldest first: by when they were finished, as their names, which begin
    with the second of the start, don't tell two of one second apart."""
    files = [file for file in workspace.files(labelling_folder(name)) if file.name == FILE]
    return [file.path.removesuffix(f"/{FILE}") for file in sorted(files, key=lambda file: (file.modified, file.path))]


def last_batch(workspace: Workspace, name: str) -> str:
    """The folder of the last batch. Raises UsageError where there is none."""
    if folders := batch_folders(workspace, name):
        return folders[-1]
    raise UsageError(f"nothing was chosen for {name!r} yet: give --pool SOURCE")


def handed_out(workspace: Workspace, name: str) -> pd.DataFrame:
    """The columns sha256 and uri of all that was handed out, each image once."""
    parts = [read_table(workspace, f"{each}/{FILE}", ["sha256", "uri"]) for each in batch_folders(workspace, name)]
    return pd.concat([no_batch()[["sha256", "uri"]], *parts]).drop_duplicates("sha256")


def no_batch() -> pd.DataFrame:
    return SCHEMA.empty_table().to_pandas()


def read_summary(workspace: Workspace, folder: str) -> dict[str, Any]:
    """What was chosen of what: version, images, counts by reason, the pool, its faults, and the batch."""
    batch = read_batch(workspace, folder)
    rows = batch.assign(path=batch["uri"], probability=batch["probability"].astype(float).round(4))
    listed = rows[["path", "reason", "label", "probability"]].to_dict("records")
    return {**workspace.read_json(f"{folder}/{SUMMARY}"), "batch": listed}


def read_batch(workspace: Workspace, folder: str) -> pd.DataFrame:
    return read_table(workspace, f"{folder}/{FILE}")


def write_batch(workspace: Workspace, folder: str, batch: pd.DataFrame) -> None:
    write_table(workspace, f"{folder}/{FILE}", batch, SCHEMA)
