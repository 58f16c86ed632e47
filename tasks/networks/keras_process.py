"""Keras runs in a child process: functions that need TensorFlow are called there.

Importing TensorFlow takes 5 s of a core and holds Python's lock, as tracing and exporting do. In a child process that
is started first, this happens while Prefect's server starts, and images are decoded and labels reviewed during a
training. There is one such process for each parent, so TensorFlow is imported once.

Why not a library: `ProcessPoolExecutor` runs one call at a time in a process, and parity's reference is made beside the
training; the servers of `multiprocessing.managers` outlive a parent that is killed; neither calls back with progress.
"""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from tasks.errors import HeadstartError
from tasks.processes import child_environ, collect_rarely, end_with_input, module_command

P = ParamSpec("P")
R = TypeVar("R")

# Keras first: it and TensorFlow import each other. Two threads that begin at different ends wait for each other, and
# Python resolves the deadlock with partly initialised modules.
MODULES = ("keras", "tensorflow", "tf2onnx.convert")
# Otherwise TensorFlow takes all of a GPU's memory, which another process may need for the feature extractor.
ENVIRON = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}


class KerasProcess:
    """A child process that is started with the object and ends with its parent, also where that is killed."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        self._process = subprocess.Popen(
            module_command(__name__, str(theirs.fileno())),
            stdin=subprocess.PIPE,
            stdout=sys.__stderr__,  # standard output is reserved for the command's result
            pass_fds=[theirs.fileno()],
            env={**ENVIRON, **child_environ()},
        )
        theirs.close()
        self._sending = threading.Lock()
        self._numbers = itertools.count()
        self._answers: dict[int, SimpleQueue[tuple[str, Any]]] = {}
        threading.Thread(target=self._receive, name="keras-process", daemon=True).start()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls a module's function in a thread of that process; thread-safe.

        Arguments and results are pickled. An argument that is a function is called in this process; its results are
        dropped.

        Raises:
            HeadstartError: the process ended.
            Exception: what the function raised.
        """
        callbacks = [argument for argument in args if callable(argument)]
        sent = [_Callback(callbacks.index(argument)) if callable(argument) else argument for argument in args]
        number = next(self._numbers)
        answers = self._answers[number] = SimpleQueue()
        try:
            with self._sending:
                self._connection.send((number, function, sent, kwargs))
        except OSError:
            answers.put(("ended", self._process.wait()))
        what, value = answers.get()
        while what == "called back":
            callback, given = value
            callbacks[callback](*given)
            what, value = answers.get()
        del self._answers[number]
        if what == "ended":
            reason = "was killed, most likely because memory ran out" if value < 0 else f"ended with status {value}"
            raise HeadstartError(f"the process in which Keras runs {reason}, during {function.__name__}")
        if what == "raised":
            raise value
        return value

    def _receive(self) -> None:
        """Passes each message to the call that waits for it; where the process has ended, to all of them."""
        try:
            while True:
                number, *answer = self._connection.recv()
                self._answers[number].put(tuple(answer))
        except (EOFError, OSError):
            for answers in list(self._answers.values()):
                answers.put(("ended", self._process.wait()))


class _Callback:
    """Stands for a function of the parent."""

    def __init__(self, number: int) -> None:
        self.number = number


_starting = threading.Lock()
_process: KerasProcess | None = None


def start() -> KerasProcess:
    """The Keras process of this process; started where there is none, or where it has ended."""
    global _process
    with _starting:
        if _process is None or _process.ended:
            _process = KerasProcess()
        return _process


def call(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls a function in the Keras process, see `KerasProcess.call`."""
    return start().call(function, *args, **kwargs)


def _serve(connection: Connection) -> None:
    """Runs calls, each in a thread, until the parent ends."""
    sending = threading.Lock()

    def send(*message: Any) -> None:
        with sending:
            connection.send(message)

    while True:
        try:
            number, function, args, kwargs = connection.recv()
        except (EOFError, OSError):  # the parent has ended, perhaps with an answer of ours unread
            return
        threading.Thread(target=_answer, args=(partial(send, number), function, args, kwargs), daemon=True).start()


def _answer(send: Callable[..., None], function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> None:
    given = [partial(_call_back, send, each.number) if isinstance(each, _Callback) else each for each in args]
    try:
        answer = "returned", function(*given, **kwargs)
    except Exception as exc:  # noqa: BLE001 - the parent raises it
        exc.add_note(traceback.format_exc())
        answer = "raised", exc
    try:
        send(*answer)
    except OSError:  # the parent has ended
        return
    except Exception as exc:  # noqa: BLE001 - some exceptions can't be copied
        send("raised", RuntimeError(f"{type(answer[1]).__name__}: {answer[1]} ({exc})"))


def _call_back(send: Callable[..., None], number: int, *args: Any) -> None:
    send("called back", (number, args))


@contextmanager
def _without_banner() -> Iterator[None]:
    """Keeps the messages of TensorFlow's C++ code at its import (oneDNN, no GPU) off standard error; no variable does.

    It writes to the file descriptor, which is redirected to a file for the block; all other output follows afterwards.
    """
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            aside.seek(0)
            kept_lines = [
                line for line in aside if not line.startswith((b"I0000", b"WARNING: All log messages before absl"))
            ]
            os.write(2, b"".join(kept_lines))


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of the terminal; the parent handles it
    end_with_input()
    collect_rarely()
    with _without_banner():
        for module in MODULES:
            importlib.import_module(module)
    _serve(Connection(int(sys.argv[1])))
    os._exit(0)  # calls that are still under way have nobody to answer


if __name__ == "__main__":
    # Imported by its name, so that pickled classes are the same on both sides.
    importlib.import_module("tasks.networks.keras_process")._main()
