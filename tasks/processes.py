"""How this program's processes start: what they import, from where, and how often Python looks for garbage."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]  # the folder that holds `tasks` and `flows`
ALLOCATIONS = 100_000  # between two collections of what is young; Python's own is 700 (3.11)
USUAL = gc.get_threshold()
PARENT_PERIOD_S = 0.5


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


def end_with_parent(parent: int) -> None:
    """Ends this process at once when its parent has ended, however that was: nobody would stop it any more.

    Without effect where this process is no child of `parent`. Every stage may be killed at any moment.
    """
    if os.getppid() == parent:
        threading.Thread(target=_outlive_nobody, args=(parent,), name="end-with-parent", daemon=True).start()


def _outlive_nobody(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_PERIOD_S)
    os._exit(1)


def end_with_input(end: Callable[[], object] = lambda: os._exit(0)) -> None:
    """The same for a child whose standard input its parent holds open, and never writes to; `end` ends this process."""

    def wait() -> None:
        os.read(0, 1)  # not `sys.stdin`, whose lock would be held when Python ends
        end()

    threading.Thread(target=wait, name="end-with-input", daemon=True).start()


def collect_as_usual() -> None:
    """Call it where a process stays, once all is imported, after `collect_rarely`: what is there is set aside, and what
    comes is collected as often as Python does by itself."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*USUAL)


def collect_rarely() -> None:
    """Call it first in a process that imports the heavy libraries and ends with its work.

    What they make lives to the end. On 3,409 photographs a first retrain took 43.5 s with it and 46.5 s without it, one
    with nothing new 5.1 s and 6.2 s.
    """
    gc.set_threshold(ALLOCATIONS, 20, 20)
    atexit.register(gc.freeze)
