"""Python's garbage collector, told how this program uses memory."""

from __future__ import annotations

import atexit
import gc

ALLOCATIONS = 100_000  # between two collections of what is young; Python's own is 700 (3.11)


def collect_rarely() -> None:
    """Call it first in a process that will import the heavy libraries.

    What they make lives to the end. To look through it every 700 objects takes 1.2 s of the 7 s that Prefect, Great
    Expectations and TensorFlow take to import; to look through it once more at exit, 1.5 s of 2.
    """
    gc.set_threshold(ALLOCATIONS, 20, 20)
    atexit.register(gc.freeze)
