"""The split of each image of a model, and its group of near-duplicates, as first assigned.

`snapshots/assignments/<name>.parquet` has a row for each image of all runs. It only grows, and a split in it
never changes; a group's name may change, where a later image joins two groups.
"""

from __future__ import annotations

import hashlib
import logging

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import DamagedFileError
from tasks.records import Run
from tasks.runs import finished_runs
from tasks.storage.snapshots import snapshot_names
from tasks.storage.tables import read_table, write_table

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),  # equal for near-duplicates; for a single image its own sha256
        (
            "run_id",
            pa.string(),
        ),  # the work that brought the image first, see `work_of` (in older workspaces a run's id)
    ]
)


def assignments_path(name: str) -> str:
    return f"snapshots/assignments/{name}.parquet"


def work_of(run: Run, catalogue_digest: str) -> str:
    """Identifies the work of a run: this catalogue, after the last finished run of the model.

    A run that resumes an interrupted one has the same work, so it recognises the images that the interrupted run added.
    """
    last = next(finished_runs(run.workspace, run.name), {})
    return hashlib.sha256(f"{catalogue_digest} {last.get('run_id')}".encode()).hexdigest()[:16]


def no_assignments() -> pd.DataFrame:
    return SCHEMA.empty_table().to_pandas()


def read_assignments(run: Run) -> pd.DataFrame:
    """The assignments of the run's model so far; made again from its snapshots where the file was lost.

    Raises:
        DamagedFileError: the file can't be read.
    """
    path = assignments_path(run.name)
    if not run.workspace.exists(path):
        return _rebuild(run)
    try:
        return read_table(run.workspace, path)
    except pa.ArrowException as exc:
        raise DamagedFileError(
            f"{run.workspace.display(path)} is damaged: {exc}; put it back from a backup, or remove it: then it is "
            "made again from the snapshots of the model"
        ) from exc


def write_assignments(run: Run, assignments: pd.DataFrame) -> None:
    write_table(run.workspace, assignments_path(run.name), assignments, SCHEMA)


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
