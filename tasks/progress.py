"""Progress on standard error, for a person at a terminal; silent elsewhere (logs of a worker, pipes, tests)."""

from __future__ import annotations

import sys
import threading
from typing import Any


class Progress:
    """A progress bar for one stage; `advance` may be called from any thread."""

    def __init__(self, stage: str, total: int | None, unit: str) -> None:
        """`total` is None where it is known with the first `report` only."""
        self._stage, self._total, self._unit = stage, total, unit
        self._bar: Any = None
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        if self._total != 0 and sys.stderr.isatty():
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self._total, desc=self._stage, unit=f" {self._unit}", file=sys.stderr, leave=False)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int = 1) -> None:
        if self._bar is not None:
            with self._lock:
                self._bar.update(count)

    def report(self, done: int, total: int) -> None:
        """So many of so many are done."""
        if self._bar is not None:
            with self._lock:
                self._bar.total = total
                self._bar.update(done - self._bar.n)
