"""Makes the `Run` that every stage is given first and records of what stages made, and finds the process of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from tasks.config import POOLED, parse_config
from tasks.records import Catalogue, FeatureExtractor, Features, Head, Run, Snapshot
from tasks.storage.snapshots import write_snapshot
from tasks.storage.tables import snapshot_schema
from tasks.workspace import Workspace


def make_run(
    workspace: Path | str, source: Path | str, run_id: str = "r1", config: Mapping[str, Any] | None = None
) -> Run:
    """A run of the model `shapes` at a fixed moment."""
    return Run(
        run_id=run_id,
        name="shapes",
        source=str(source),
        workspace=Workspace(str(workspace)),
        config=parse_config(config or {}),
        started_at="2026-01-02T03:04:05Z",
    )


def make_catalogue(run: Run, table: str = "catalogue.parquet", **fields: Any) -> Catalogue:
    """A catalogue of this run, whose table lies in the run's folder."""
    given: dict[str, Any] = {"digest": "c", "images": 0, "quarantined": 0, "source": run.source, "work": "w"} | fields
    return Catalogue(table_path=run.path(table), folder=run.folder, **given)


def make_snapshot_record(run: Run, identity: str = "s", **fields: Any) -> Snapshot:
    """A snapshot's record: of the file `snapshots/<identity>.parquet`, where there is one."""
    given: dict[str, Any] = {
        "labels": (),
        "images": 0,
        "new": 0,
        "folder": run.folder,
        "catalogue": make_catalogue(run),
    } | fields
    return Snapshot(id=identity, **given)


def keep_snapshot(run: Run, table: pd.DataFrame, **fields: Any) -> Snapshot:
    """Writes a snapshot of these rows (columns that are not given are null), and names it."""
    labels = tuple(sorted(set(table["label"])))
    identity = write_snapshot(run, table.reindex(columns=snapshot_schema(run.config.task).names))
    return make_snapshot_record(run, identity, labels=labels, images=len(table), **fields)


def make_extractor_record(**fields: Any) -> FeatureExtractor:
    """A pooled extractor of the embedded backbone at 32 px, of which no file need be there."""
    given: dict[str, Any] = {"key": "r", "onnx_path": "", "backbone": "embedded", "weights": "", "boundary": POOLED}
    given |= {"image_size_px": 32} | fields
    return FeatureExtractor(**given)


def make_head_record(run: Run, snapshot: Snapshot, extractor: FeatureExtractor | None = None, **fields: Any) -> Head:
    """A head whose files lie in the run's folder."""
    features = Features(snapshot=snapshot, extractor=extractor or make_extractor_record(), views=0, embedded=0)
    given: dict[str, Any] = {"digest": "d", "temperature": 1.0} | fields
    return Head(features=features, folder=run.folder, **given)


def process_of(ancestor: int, name: str) -> psutil.Process | None:
    """The process below `ancestor` that runs a retrain of this model: the one that holds its lock."""
    for process in psutil.Process(ancestor).children(recursive=True):
        try:
            if any(file.path.endswith(f"/{name}.lock") for file in process.open_files()):
                return process
        except psutil.Error:  # it ended meanwhile
            continue
    return None
