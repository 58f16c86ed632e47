"""The process that waits for a run: which one a run is given, and what becomes of it."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from flows import standby
from flows.standby import Standby
from tasks.records import Run
from tests.runs import make_run

# Stands for the real one, whose imports take seconds: it is given a run and an environment, and ends as that says.
QUICK = """
import os, pickle, sys
def received():
    try:
        return pickle.load(sys.stdin.buffer)
    except EOFError:
        os._exit(7)
run, environ = received(), received()
sys.exit(int(environ["STATUS"]))
"""
KILLED = """
import sys, pickle, time
from flows.standby import Standby
standby = Standby(pickle.load(sys.stdin.buffer), print)
standby.prepare()
print(standby._waiting.pid, flush=True)
time.sleep(600)
"""
WAITED, NEW = "a run starts, in the process that waited for it", "a run starts, in a new process"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "w", tmp_path / "photos", config={"backbone": {"name": "embedded"}})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "module_command", lambda module: [sys.executable, "-c", QUICK])


class Runs:
    """Starts runs as Prefect's runner does, and keeps their processes and what was reported."""

    def __init__(self, run: Run) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.reports: list[str] = []
        self.standby = Standby(run, self.reports.append)

    def waiting(self) -> subprocess.Popen[bytes]:
        process = self.standby._waiting
        assert process
        return process

    def start(self, during: Callable[[], object] = lambda: None, **environ: str) -> int | None:
        """Runs one; returns the status of its process."""

        def started(process: subprocess.Popen[bytes]) -> None:
            self.processes.append(process)
            during()

        handed: Any = {"task_status": SimpleNamespace(started=started), "task_status_handler": lambda process: process}
        asyncio.run(self.standby.run_process(command=["python"], env=environ, **handed))
        return self.processes[-1].returncode


@pytest.mark.usefixtures("quick")
def test_each_run_has_the_process_that_waited_and_the_next_waits_after_it(run: Run):
    runs = Runs(run)
    runs.standby.prepare()
    for status in (0, 3):
        waiting = runs.waiting()
        seen: list[Any] = []
        assert runs.start(lambda seen=seen: seen.append(runs.standby._waiting), STATUS=str(status)) == status
        assert runs.processes[-1] is waiting
        assert seen == [None]  # the run has the cores for itself
    assert [report.split(" (")[0] for report in runs.reports] == [WAITED, WAITED]
    runs.waiting().kill()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("reason", ["killed", "the code changed"])
def test_a_process_that_was_killed_or_has_old_code_gets_no_run(run: Run, reason: str, monkeypatch: pytest.MonkeyPatch):
    runs = Runs(run)
    runs.standby.prepare()
    waiting = runs.waiting()
    if reason == "killed":
        waiting.kill()
        waiting.wait()
    else:
        monkeypatch.setattr(standby, "_code", lambda: {Path("flows/up.py"): 1})
    assert runs.start(STATUS="0") == 0
    assert runs.processes[-1] is not waiting
    assert waiting.returncode == -signal.SIGKILL
    assert runs.reports == [NEW]
    runs.waiting().kill()


@pytest.mark.usefixtures("quick")
def test_a_run_that_is_killed_ends_with_that_status_and_after_a_stop_no_process_is_started(run: Run):
    runs = Runs(run)
    runs.standby.prepare()
    waiting = runs.waiting()

    def kill() -> None:
        runs.standby.close()
        waiting.kill()

    assert runs.start(kill, STATUS="0") == -signal.SIGKILL
    assert runs.standby._waiting is None


@pytest.mark.usefixtures("quick")
def test_a_run_that_ended_well_did_so_though_no_next_process_can_be_started(run: Run, monkeypatch: pytest.MonkeyPatch):
    runs = Runs(run)
    runs.standby.prepare()

    def started(standby: Standby) -> subprocess.Popen[bytes]:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(Standby, "_started", started)
    assert runs.start(STATUS="0") == 0
    assert runs.reports[-1] == "no process waits for the next run: Cannot allocate memory"


@pytest.mark.usefixtures("quick")
def test_a_runner_that_stops_ends_its_run(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(standby, "_send", lambda process, message: None)  # so it goes on for ever
    runs = Runs(run)
    found: list[subprocess.Popen[bytes]] = []
    handed: Any = {
        "task_status": SimpleNamespace(started=found.append),
        "task_status_handler": lambda process: process,
    }

    async def stopped() -> None:
        running = asyncio.create_task(runs.standby.run_process(command=["python"], env={}, **handed))
        while not found:
            await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(stopped())
    assert found[0].wait(100) == -signal.SIGTERM


@pytest.mark.slow
def test_the_real_process_becomes_prefects_engine_and_ends_with_its_parent(run: Run, capfd: pytest.CaptureFixture[str]):
    runs = Runs(run)
    runs.standby.prepare()
    assert runs.start(PREFECT__FLOW_RUN_ID="none") == 1
    assert "Invalid flow run id" in capfd.readouterr().err
    runs.waiting().kill()
    parent = subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin
    assert parent.stdout
    parent.stdin.write(pickle.dumps(run))
    parent.stdin.close()
    waiting = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 300
    while waiting.is_running() and waiting.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.2)
