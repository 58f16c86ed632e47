"""Makes the `Run` that every stage is given first, and finds the process of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from tasks.config import parse_config
from tasks.records import Run
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


def process_of(ancestor: int, name: str) -> psutil.Process | None:
    """The process below `ancestor` that runs a retrain of this model: the one that holds its lock."""
    for process in psutil.Process(ancestor).children(recursive=True):
        try:
            if any(file.path.endswith(f"/{name}.lock") for file in process.open_files()):
                return process
        except psutil.Error:  # it ended meanwhile
            continue
    return None
