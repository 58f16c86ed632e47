"""Progress on standard error, for a person at a terminal; silent elsewhere (logs of a worker, pipes, tests)."""

from __future__ import annotations

import sys
import threading
from typing import Any


class Progress:
    """A progress bar for one stage; `advance` may be called from any thread."""

    def __init__(self, stage: str, total: int, unit: str) -> None:
        self._stage, self._total, self._unit = stage, total, unit
        self._bar: Any = None
        self._lock = threading.Lock()
        self.done = 0

    def __enter__(self) -> Progress:
        if self._total and sys.stderr.isatty():
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self._total, desc=self._stage, unit=f" {self._unit}", file=sys.stderr, leave=False)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int = 1) -> None:
        with self._lock:
            self.done += count
            if self._bar is not None:
                self._bar.update(count)
