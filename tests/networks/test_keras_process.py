"""Calls into the process that Keras lives in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from pathlib import Path

import psutil
import pytest

from tasks.errors import ConfigError, HeadstartError, InvalidDataError
from tasks.networks import keras_process
from tasks.networks.keras_process import KerasProcess, _serve

ROOT = Path(__file__).parents[2]


def pid_and_backend() -> tuple[int, str]:
    import keras

    return os.getpid(), keras.config.backend()


def raise_it(exc: Exception) -> None:
    raise exc


def raise_what_cannot_be_copied() -> None:
    class Here(Exception):
        pass

    raise Here("of no module")


def count_to(limit: int, told) -> str:
    for number in range(limit):
        told(number, {"loss": 0.5})
    return "done"


def meet(folder: str, name: str, other: str) -> None:
    Path(folder, name).touch()
    while not Path(folder, other).exists():
        time.sleep(0.01)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_one_process_answers_all_calls():
    first, second = keras_process.call(pid_and_backend), keras_process.call(pid_and_backend)
    assert first == second
    assert first[0] != os.getpid()
    assert first[1] == "tensorflow"


def test_a_fault_is_raised_here_as_it_was_there():
    with pytest.raises(ConfigError, match="no such layer") as found:
        keras_process.call(raise_it, ConfigError("no such layer"))
    assert "raise_it" in "".join(found.value.__notes__)  # where it was raised
    with pytest.raises(InvalidDataError) as reasons:
        keras_process.call(raise_it, InvalidDataError(["too few"]))
    assert reasons.value.reasons == ["too few"]
    with pytest.raises(RuntimeError, match="Here: of no module"):
        keras_process.call(raise_what_cannot_be_copied)


def test_a_function_among_the_arguments_is_called_here():
    told = []
    assert keras_process.call(count_to, 3, lambda *args: told.append((os.getpid(), *args))) == "done"
    assert told == [(os.getpid(), number, {"loss": 0.5}) for number in range(3)]


def test_two_threads_call_at_a_time(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(keras_process.call, meet, str(tmp_path), *names) for names in (("a", "b"), ("b", "a"))]
        assert [call.result(timeout=60) for call in calls] == [None, None]


def test_a_process_that_died_is_told_and_the_next_call_has_another():
    before = keras_process.call(pid_and_backend)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(keras_process.call, time.sleep, 600)
        with pytest.raises(HeadstartError, match="was killed, most likely because memory ran out, during die"):
            keras_process.call(die)
        with pytest.raises(HeadstartError, match="during sleep"):
            waiting.result(timeout=60)
    assert keras_process.call(pid_and_backend) != before


def test_ctrl_c_is_for_the_parent_to_decide():
    process = KerasProcess()
    pid, _ = process.call(pid_and_backend)
    os.kill(pid, signal.SIGINT)
    assert process.call(pid_and_backend) == (pid, "tensorflow")


PARENT = """
import sys
from tasks.networks import keras_process
from tests.networks.test_keras_process import pid_and_backend
from tests.networks.test_keras_process import meet
print(keras_process.call(pid_and_backend)[0], flush=True)
if sys.argv[1] == "ends":
    sys.exit()
keras_process.call(meet, sys.argv[2], "calls", "never comes")
"""


@pytest.mark.parametrize("how", ["ends", "is killed in a call"])
def test_it_ends_with_its_parent(how, tmp_path):
    command = [sys.executable, "-c", PARENT, how, tmp_path]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        if how == "ends":
            parent.wait(60)
        else:
            while not (tmp_path / "calls").exists():
                time.sleep(0.01)
            parent.kill()
    psutil.wait_procs([child], timeout=120)
    assert not child.is_running()


def test_a_parent_that_ends_with_an_answer_unread_is_no_fault():
    ours, theirs = Pipe()
    ours.send("an answer")
    theirs.close()
    _serve(ours)  # returns, though the connection was reset
