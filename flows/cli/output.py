"""What a command prints: its answer on standard output, and an error as a sentence with an exit status."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

from tasks.errors import HeadstartError
from tasks.text import visible, visible_lines


def say(text: str) -> None:
    """Prints to the real standard output, wherever `sys.stdout` leads by now; a terminal is given nothing to obey."""
    typer.echo(visible_lines(text), file=sys.__stdout__)


def print_json(value: Any) -> None:
    """Prints one JSON object, in which a character that a terminal would obey is escaped."""
    text = json.dumps(value, ensure_ascii=False)
    say("".join(each if visible(each) == each else json.dumps(each)[1:-1] for each in text))


@contextmanager
def plain_errors() -> Iterator[None]:
    """A user's mistake and a fault of ours both end in a sentence and an exit status, not in a traceback."""
    try:
        yield
    except HeadstartError as exc:
        _fail(str(exc), exc.exit_status)
    except KeyboardInterrupt:
        _fail("interrupted; run it again to resume", 130)
    except Exception as exc:
        if os.environ.get("HEADSTART_TRACEBACK"):
            raise
        _fail(
            f"an unexpected fault, {type(exc).__name__}: {exc}\n"
            "The run's log has the rest; HEADSTART_TRACEBACK=1 shows where it happened.",
            HeadstartError.exit_status,
        )


def _fail(message: str, status: int) -> NoReturn:
    typer.echo(f"headstart: {visible_lines(message)}", err=True)
    raise typer.Exit(status)
