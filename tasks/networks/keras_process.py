"""The process that Keras lives in: whatever needs TensorFlow is called there.

TensorFlow takes 5 s of a core to import and holds Python's lock meanwhile, as tracing and exporting do. In a process
of its own, begun first, it comes up beside Prefect and its server, and images are decoded and labels reviewed beside
a training. One such process serves this one for good, so that TensorFlow is imported once.
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

P = ParamSpec("P")
R = TypeVar("R")

# Keras first: two threads that enter its circle with TensorFlow from different ends each wait for the other, and Python
# breaks the deadlock by handing out half-made modules.
MODULES = ("keras", "tensorflow", "tf2onnx")
# TensorFlow takes all of a GPU's memory otherwise, and the images may pass through the feature extractor in another
# process.
ENVIRON = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}


class KerasProcess:
    """A child process, started with the object, that ends with its parent, however that ends."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        command = [sys.executable, "-m", __name__, str(theirs.fileno())]
        environ = {**ENVIRON, **os.environ}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=sys.__stderr__,  # standard output belongs to the command's answer
            pass_fds=[theirs.fileno()],
            env=environ,
        )
        theirs.close()
        self._sending = threading.Lock()
        self._numbers = itertools.count()
        self._answers: dict[int, SimpleQueue[tuple[str, Any]]] = {}
        threading.Thread(target=self._deal, name="keras-process", daemon=True).start()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls a module's function in a thread of that process; several threads may call at a time.

        Arguments and results are copied; an argument that is a function is called here, and its results are lost.

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
            reason = "was killed, most likely for want of memory" if value < 0 else f"ended with status {value}"
            raise HeadstartError(f"the process in which Keras runs {reason}, during {function.__name__}")
        if what == "raised":
            raise value
        return value

    def _deal(self) -> None:
        """Gives each call its answers, and tells all that wait where the process has ended."""
        try:
            while True:
                number, *answer = self._connection.recv()
                self._answers[number].put(tuple(answer))
        except (EOFError, OSError):
            for answers in list(self._answers.values()):
                answers.put(("ended", self._process.wait()))


class _Callback:
    """Stands for a function of the parent's."""

    def __init__(self, number: int) -> None:
        self.number = number


_starting = threading.Lock()
_process: KerasProcess | None = None


def start() -> KerasProcess:
    """This process's Keras process; started where there is none, or where it has ended."""
    global _process
    with _starting:
        if _process is None or _process.ended:
            _process = KerasProcess()
        return _process


def call(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls a function where Keras is, see `KerasProcess.call`."""
    return start().call(function, *args, **kwargs)


def _serve(connection: Connection) -> None:
    """Answers calls until the parent is gone, a thread each."""
    sending = threading.Lock()

    def send(*message: Any) -> None:
        with sending:
            connection.send(message)

    while True:
        try:
            number, function, args, kwargs = connection.recv()
        except EOFError:
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
    except OSError:  # the parent is gone
        return
    except Exception as exc:  # noqa: BLE001 - some exceptions can't be copied
        send("raised", RuntimeError(f"{type(answer[1]).__name__}: {answer[1]} ({exc})"))


def _call_back(send: Callable[..., None], number: int, *args: Any) -> None:
    send("called back", (number, args))


@contextmanager
def _without_banner() -> Iterator[None]:
    """Keeps what TensorFlow's C++ says at its import (oneDNN is on, no GPU) off standard error; no variable does.

    It writes to the file descriptor, so that is turned aside for the block; what anything else wrote follows after.
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
            said = [line for line in aside if not line.startswith((b"I0000", b"WARNING: All log messages before absl"))]
            os.write(2, b"".join(said))


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # which the parent never writes to
    os._exit(0)


def _main() -> None:
    from tasks.garbage import collect_rarely

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the terminal's whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    collect_rarely()
    with _without_banner():
        for module in MODULES:
            importlib.import_module(module)
    _serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    # By its own name, so that what is copied is of the same classes on both sides.
    importlib.import_module("tasks.networks.keras_process")._main()
