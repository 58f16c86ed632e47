"""`python -m tasks.ingest.ahead`: inspects a source's images in a separate process, ahead of the ingest stage.

It only fills the inspection store. It reports no error: the ingest stage then finds the same one.
"""

from __future__ import annotations

import subprocess
import sys

from tasks.config import Config
from tasks.garbage import collect_rarely
from tasks.ingest.reading import inspect_source
from tasks.records import Run
from tasks.runs import new_run


def start(run: Run) -> subprocess.Popen[bytes] | None:
    """Starts the process; None for a source of tensorflow-datasets, which has no files to read."""
    if run.source.startswith("tfds:"):
        return None
    command = [sys.executable, "-m", __name__, run.source, run.name, run.workspace.url]
    return subprocess.Popen(
        [*command, run.config.model_dump_json(by_alias=True)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    collect_rarely()
    source, name, workspace, config = sys.argv[1:]
    inspect_source(new_run(source, name, workspace, Config.model_validate_json(config)))
