"""Whole processes, timed and weighed from outside; the Prefect server that they may find running."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

SAMPLE_EVERY_S = 0.25
SERVER_TIMEOUT_S = 300
# What a user's shell may hold that would turn the measured commands into other ones.
LEFT_OUT = ("PREFECT_", "HEADSTART_")


@dataclass(frozen=True)
class Answer:
    """What a process printed last, a JSON object, and what it cost."""

    printed: dict[str, Any]
    started_at: float  # seconds since the epoch
    seconds: float
    processor_s: float  # of the process and all below it, as they were last seen
    timeline: list[tuple[float, float]]  # seconds since the epoch, and the processor seconds until then
    peak_rss_mb: int  # of the process and all below it, together
    peak_anonymous_mb: int  # of these without mapped files, whose pages the system takes back when it needs them


def environment(prefect_home: Path, api_url: str | None = None) -> dict[str, str]:
    """This process's environment with a Prefect home of its own, silent, and a server where one is named."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LEFT_OUT)}
    own = {"PREFECT_HOME": str(prefect_home), "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    return {**kept, **own} | ({"PREFECT_API_URL": api_url} if api_url else {})


def run(command: Sequence[str], env: dict[str, str], allowed: Sequence[int] = (0,)) -> Answer:
    """Runs a command to its end.

    Args:
        command: prints a JSON object, as the whole of standard output or as its last line.
        env: its environment.
        allowed: exit statuses that come with an answer.

    Raises:
        SystemExit: another exit status; the message ends with what the command said on standard error.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started_at, started = time.time(), time.perf_counter()
        spent_s: dict[int, float] = {}  # of a core, by process: some are not waited for, and known to nobody then
        timeline = [(started_at, 0.0)]
        with subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err) as process:
            peak_rss = peak_anonymous = 0
            while True:
                rss, anonymous = _look_at_tree(process.pid, spent_s)
                timeline.append((time.time(), sum(spent_s.values())))
                peak_rss, peak_anonymous = max(peak_rss, rss), max(peak_anonymous, anonymous)
                try:
                    status = process.wait(SAMPLE_EVERY_S)
                except subprocess.TimeoutExpired:
                    continue
                seconds = time.perf_counter() - started
                break
        printed, said = (_read(file) for file in (out, err))
    if status not in allowed:
        raise SystemExit(f"{' '.join(command)} ended with status {status}; it said:\n{said[-4000:]}")
    return Answer(
        printed=_last_object(printed),
        started_at=started_at,
        seconds=seconds,
        processor_s=sum(spent_s.values()),
        timeline=timeline,
        peak_rss_mb=peak_rss // 2**20,
        peak_anonymous_mb=peak_anonymous // 2**20,
    )


@contextlib.contextmanager
def sampled(pid: int) -> Iterator[list[tuple[float, float]]]:
    """The timeline of a process and all below it, as that of an `Answer`, from here to the end of the block."""
    timeline: list[tuple[float, float]] = []
    spent_s: dict[int, float] = {}
    over = threading.Event()

    def look() -> None:
        while True:
            _look_at_tree(pid, spent_s)
            timeline.append((time.time(), sum(spent_s.values())))
            if over.wait(SAMPLE_EVERY_S):
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield timeline
    finally:
        over.set()
        thread.join()


def _look_at_tree(pid: int, spent_s: dict[int, float]) -> tuple[int, int]:
    """Resident bytes of a process and its descendants, and how many of them are no pages of files.

    Pages that they share count for each. Enters into `spent_s` the processor seconds of each.
    """
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0, 0
    rss = anonymous = 0
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            memory, times = process.memory_info(), process.cpu_times()
            rss, anonymous = rss + memory.rss, anonymous + memory.rss - memory.shared
            spent_s[process.pid] = times.user + times.system
    return rss, anonymous


def _read(file: Any) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _last_object(printed: str) -> dict[str, Any]:
    try:
        return json.loads(printed)
    except ValueError:
        return json.loads(printed.splitlines()[-1])


@contextlib.contextmanager
def prefect_server(prefect_home: Path) -> Iterator[tuple[str, float]]:
    """A server as `prefect server start` makes it: its API's URL, and the seconds from its start until it answered."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = environment(prefect_home) | {"PREFECT_SERVER_API_PORT": str(port)}
    command = [sys.executable, "-m", "prefect", "server", "start"]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = psutil.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}/api"
            while not _answers(f"{url}/health"):
                if process.poll() is not None or time.perf_counter() - started > SERVER_TIMEOUT_S:
                    raise SystemExit(f"Prefect's server did not come up; it said:\n{_read(log)[-4000:]}")
                time.sleep(0.05)
            yield url, time.perf_counter() - started
        finally:
            _stop(process)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _stop(process: psutil.Popen) -> None:
    """The command and the server process that it keeps below it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = [*process.children(recursive=True), process]
        for each in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()
        for each in psutil.wait_procs(tree, timeout=10)[1]:
            each.kill()
    process.wait()
