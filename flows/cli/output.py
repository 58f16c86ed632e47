"""What a command prints: its answer on standard output, and an error as a sentence with an exit status."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import typer

from tasks.display import visible, visible_lines
from tasks.errors import HeadstartError

UNFAMILIAR = "  (unlike anything it was trained on)"  # after the answer for an image
INTERRUPTED = 130  # the exit status after Ctrl-C, as shells have it: 128 and the signal's number
INTERRUPT_S = 3


def say(text: str, **style: Any) -> None:
    """Prints to the real standard output, wherever `sys.stdout` leads by now; a terminal is given nothing to obey but
    `style`, as `typer.style` takes it."""
    typer.secho(visible_lines(text), file=sys.__stdout__, **style)


def print_json(value: Any) -> None:
    """Prints one JSON object, in which a character that a terminal would obey is escaped."""
    text = json.dumps(value, ensure_ascii=False)
    say("".join(each if visible(each) == each else json.dumps(each)[1:-1] for each in text))


def seconds_since_start() -> float:
    """Seconds since this process began: what whoever gave the command has waited for."""
    import psutil

    return time.time() - psutil.Process().create_time()


@contextmanager
def plain_errors() -> Iterator[None]:
    """A user's mistake and a fault of ours both end in a sentence and an exit status, not in a traceback."""
    try:
        with _prompt_interrupts():
            yield
    except HeadstartError as exc:
        _fail(str(exc), exc.exit_status)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except Exception as exc:
        if os.environ.get("HEADSTART_TRACEBACK"):
            raise
        _fail(
            f"an unexpected fault, {type(exc).__name__}: {exc}\n"
            "The run's log has the rest; HEADSTART_TRACEBACK=1 shows where it happened.",
            HeadstartError.exit_status,
        )


@contextmanager
def _prompt_interrupts() -> Iterator[None]:
    """Ctrl-C is acknowledged at once, and ends the process within INTERRUPT_S, whatever a library waits for.

    Each stage may be killed at any moment, and the next start resumes, so there is nothing to wait for.
    """

    def interrupt(*_: object) -> None:
        with suppress(OSError):  # not by Python's streams: one that is just being written to can't be entered again
            os.write(2, b"\nheadstart: interrupted; run it again to resume\n")
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        end = threading.Timer(INTERRUPT_S, os._exit, [INTERRUPTED])
        end.daemon = True
        end.start()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _fail(message: str, status: int) -> NoReturn:
    typer.echo(f"headstart: {visible_lines(message)}", err=True)
    raise typer.Exit(status)
