"""What people are shown: text of others made safe, and on standard error how a run goes, with a line for each stage and
a bar for what is under way.

Of a run nothing is shown unless a command asked for it with `showing`: a worker's log and the JSON of `--json` stay as
they are. Where standard error is no terminal there are no bars, and slow stages add a plain line now and then.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

PLAIN_PERIOD_S = 10.0  # between two plain lines of one stage
STAGE_WIDTH = 10  # of the longest stage's name and a space

# What a terminal or a page would obey instead of showing it: control characters (C0, DEL, C1), separators of lines and
# paragraphs, overrides of the direction of writing (Unicode TR 36), and halves of surrogate pairs, which are what
# Python reads of a file name that is not UTF-8 and can't be encoded at all.
_SHOWN = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "\u2421"}  # the pictures of control characters
_ESCAPED = (*range(0x80, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000))
_VISIBLE = _SHOWN | {code: f"\\u{code:04x}" for code in _ESCAPED}
_VISIBLE_LINES = {code: shown for code, shown in _VISIBLE.items() if chr(code) not in "\n\t"}


def visible(text: str) -> str:
    """One line of text whose control characters can be seen: 'a\x1b[2Jb' as 'a␛[2Jb'."""
    return text.translate(_VISIBLE)


def visible_lines(text: str) -> str:
    """The same for a text of several lines: line breaks and tabs stay."""
    return text.translate(_VISIBLE_LINES)


class _Screen:
    """Standard error: lines that stay, and bars below them while something is under way."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._lock = threading.Lock()
        self.is_terminal = sys.stderr.isatty()

    def print(self, text: str) -> None:
        with self._lock:
            if self._bars:
                self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, file=sys.stderr, flush=True)

    def add(self, stage: str, total: int | None, unit: str) -> Any:
        """A new bar; the first one starts the display."""
        with self._lock:
            if self._bars is None:
                self._bars = _new_bars()
                self._bars.start()
            return self._bars.add_task(f"{stage:<{STAGE_WIDTH}}", total=total, unit=unit, text="")

    def update(self, bar: Any, **changes: Any) -> None:
        if self._bars:
            self._bars.update(bar, **changes)

    def remove(self, bar: Any) -> None:
        """Takes a bar away; the last one ends the display, so that other output finds a clean line."""
        with self._lock:
            if self._bars:
                self._bars.remove_task(bar)
                if not self._bars.tasks:
                    self._bars.stop()
                    self._bars = None


_screen: _Screen | None = None


@contextmanager
def showing() -> Iterator[None]:
    """Shows what happens in the block, in this process."""
    global _screen
    _screen = _Screen()
    try:
        yield
    finally:
        _screen = None


def line(text: str) -> None:
    """A line that stays."""
    if _screen:
        _screen.print(visible(text))


def stage_line(stage: str, text: str, seconds: float) -> None:
    """The line of a stage that ended, with its result."""
    line(f"  {stage:<{STAGE_WIDTH}}{text} ({seconds:.1f} s)")


class Progress:
    """What is under way in one stage; its methods may be called from any thread."""

    def __init__(self, stage: str, total: int | None, unit: str) -> None:
        """`total` is None where it is known with the first `report` only, or never."""
        self._stage, self._total, self._unit = stage, total, unit
        self._done = 0
        self._bar: Any = None
        self._next_line = time.monotonic() + PLAIN_PERIOD_S

    def __enter__(self) -> Progress:
        if _screen and _screen.is_terminal and self._total != 0:
            self._bar = _screen.add(self._stage, self._total, self._unit)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if _screen and self._bar is not None:
            _screen.remove(self._bar)

    def advance(self, count: int = 1, text: str = "") -> None:
        """`count` more are done; `text` says how it goes."""
        self._show(self._done + count, text)

    def report(self, done: int, total: int) -> None:
        """So many of so many are done."""
        self._total = total
        self._show(done, "")

    def _show(self, done: int, text: str) -> None:
        self._done = done
        if _screen is None:
            return
        if self._bar is not None:
            _screen.update(self._bar, completed=done, total=self._total, text=text)
        elif not _screen.is_terminal and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + PLAIN_PERIOD_S
            of = f" of {self._total:,}" if self._total else ""
            said = f": {text}" if text else ""
            _screen.print(f"  {self._stage:<{STAGE_WIDTH}}{done:,}{of} {self._unit}{said}")


def _new_bars() -> Bars:
    """Bars on standard error. Their rate counts from the first report on: what comes before it is preparation, such as
    the tracing of a training step."""
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Count(ProgressColumn):
        def render(self, task: Any) -> Text:
            done = f"{task.completed:,.0f} of {task.total:,.0f} " if task.total else ""
            return Text(f"{done}{task.fields['unit']}")

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:,.{0 if task.speed >= 10 else 1}f}/s" if task.speed else "")

    return Bars(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=16),
        Count(),
        Rate(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[text]}"),
        console=Console(file=sys.stderr),
        transient=True,
    )
