"""Work that is begun ahead of its stage, in a process of its own, so that two cores have something to do at the start.

Whatever goes wrong there is met, and reported, by the stage, which finds the work undone.
"""

from __future__ import annotations

import subprocess
import sys

from tasks.artifacts import Run
from tasks.config import Config
from tasks.garbage import collect_rarely
from tasks.runs import new_run


def start(module: str, run: Run) -> subprocess.Popen[bytes]:
    """Starts `python -m module` for a run; the module gets the run back by `given_run`."""
    command = [sys.executable, "-m", module, run.source, run.name, run.workspace.url]
    return subprocess.Popen(
        [*command, run.config.model_dump_json(by_alias=True)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def given_run() -> Run:
    """The run that this process was started for."""
    collect_rarely()
    source, name, workspace, config = sys.argv[1:]
    return new_run(source, name, workspace, Config.model_validate_json(config))
