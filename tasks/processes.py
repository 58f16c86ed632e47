"""How this program's processes start: what they import, from where, and how often Python looks for garbage."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]  # the folder that holds `tasks` and `flows`
ALLOCATIONS = 100_000  # between two collections of what is young; Python's own is 700 (3.11)


def module_command(module: str, *args: str) -> list[str]:
    """The command that runs one of our modules in a process of its own; `child_environ` is its environment.

    With -P, a `tasks.py` or a folder `flows` where the user happens to be is not imported in place of ours.
    """
    return [sys.executable, "-P", "-m", module, *args]


def child_environ(**variables: str) -> dict[str, str]:
    """This process's environment, in which a child finds our modules where this process did, with some variables
    more."""
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *([before] if before else [])]), **variables}


def collect_rarely() -> None:
    """Call it first in a process that imports the heavy libraries and ends with its work.

    What they make lives to the end. On 3,409 photographs a first retrain took 43.5 s with it and 46.5 s without it, one
    with nothing new 5.1 s and 6.2 s.
    """
    gc.set_threshold(ALLOCATIONS, 20, 20)
    atexit.register(gc.freeze)
