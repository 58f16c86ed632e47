"""`python -m tasks.ingest.ahead`: inspects a source's images in a process of its own, ahead of the ingest stage.

What it finds goes into the inspection store, where the stage finds it; nothing else is written. Whatever goes wrong is
met, and reported, by the stage, which finds the work undone.
"""

from __future__ import annotations

import subprocess
import sys

from tasks.config import Config
from tasks.garbage import collect_rarely
from tasks.ingest.catalogue import inspect_source
from tasks.records import Run
from tasks.runs import new_run


def start(run: Run) -> subprocess.Popen[bytes] | None:
    """Starts it; None for a source of tensorflow-datasets, which has no files to read."""
    if run.source.startswith("tfds:"):
        return None
    command = [sys.executable, "-m", __name__, run.source, run.name, run.workspace.url]
    return subprocess.Popen(
        [*command, run.config.model_dump_json(by_alias=True)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _given_run() -> Run:
    """The run that this process was started for."""
    source, name, workspace, config = sys.argv[1:]
    return new_run(source, name, workspace, Config.model_validate_json(config))


if __name__ == "__main__":
    collect_rarely()
    inspect_source(_given_run())
