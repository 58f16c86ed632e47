"""What a model's images were first found to be: the split of each, and its group of near-duplicates.

`snapshots/assignments/<name>.parquet` has a row for each image that the model ever met. It only grows, and a split
in it never changes; a group's name may, where a later image shows two groups to be one.
"""

from __future__ import annotations

import logging

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.records import Run
from tasks.storage.tables import read_table, write_table

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),  # equal for near-duplicates; of a single image its own sha256
        ("run_id", pa.string()),  # the run that met the image first
    ]
)


def assignments_path(name: str) -> str:
    return f"snapshots/assignments/{name}.parquet"


def no_assignments() -> pd.DataFrame:
    return SCHEMA.empty_table().to_pandas()


def read_assignments(run: Run) -> pd.DataFrame:
    """The assignments of the run's model so far; made again from its snapshots where the file was lost."""
    path = assignments_path(run.name)
    return read_table(run.workspace, path) if run.workspace.exists(path) else _rebuild(run)


def write_assignments(run: Run, assignments: pd.DataFrame) -> None:
    write_table(run.workspace, assignments_path(run.name), assignments, SCHEMA)


def snapshot_names(schema: pa.Schema) -> list[str]:
    """The models that a snapshot was made for; two models on the same data share one."""
    return (schema.metadata or {}).get(b"names", b"").decode().split()


def _rebuild(run: Run) -> pd.DataFrame:
    found = [no_assignments()]
    for name in run.workspace.names("snapshots"):
        if name.endswith(".parquet"):
            content = pa.BufferReader(run.workspace.read_bytes(f"snapshots/{name}"))
            if run.name in snapshot_names(pq.read_schema(content)):
                content.seek(0)
                table = pq.read_table(content, columns=["sha256", "split", "group"])
                found.append(table.to_pandas().assign(run_id=""))
    if len(found) > 1:
        log.warning("the assignments of %r are lost: made again from %d snapshots", run.name, len(found) - 1)
    return pd.concat(found, ignore_index=True).drop_duplicates("sha256", ignore_index=True)
