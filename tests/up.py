"""`headstart up` as a process of its own, with a Prefect home of its own, and what its server knows."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx

T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Up:
    """A running `headstart up`. `url` is that of the UI."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def ask(self, path: str, **body: Any) -> Any:
        return self._request("POST", path, json=body)

    def get(self, path: str) -> Any:
        return self._request("GET", path)

    def _request(self, method: str, path: str, **given: Any) -> Any:
        """Again where the server's database is busy (503), as Prefect's own client asks."""
        for pause_s in (1, 2, 4, 8, 0):
            answer = httpx.request(method, f"{self.url}/api{path}", timeout=100, **given)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(pause_s)
        return answer.raise_for_status().json()

    def events(self) -> list[dict[str, Any]]:
        """What the sensor announced, oldest first."""
        wanted = {"event": {"name": ["headstart.labels.arrived"]}}
        return list(reversed(self.ask("/events/filter", filter=wanted, limit=50)["events"]))

    def runs(self) -> list[dict[str, Any]]:
        """The flow runs that were started, oldest first; tonight's is not among them."""
        found = self.ask("/flow_runs/filter", sort="START_TIME_ASC", limit=200)
        return [run for run in found if run["start_time"]]

    def unfinished(self) -> list[dict[str, Any]]:
        """The runs that run, or are about to."""
        states = {"state": {"type": {"any_": ["RUNNING", "PENDING", "SCHEDULED"]}}}
        found = self.ask("/flow_runs/filter", flow_runs=states, limit=200)
        return [run for run in found if not run["auto_scheduled"]]

    def wait_for(self, what: Callable[[], T | None], timeout_s: float = 240) -> T:
        """The first true value of `what`; fails where the process ends before, or time runs out."""
        deadline = time.monotonic() + timeout_s
        while not (found := what()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.25)
        return found

    def stop(self) -> int:
        """As Ctrl-C does; returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(120)


@contextmanager
def running(folder: Path, source: Path, *flags: object, **environ: str) -> Iterator[Up]:
    """`headstart up` on `source`, with its workspace, its log and its Prefect home in `folder`; healthy when given."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "up",
        source,
        "--port",
        port,
        "--workspace",
        folder / "w",
        *flags,
    ]
    environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), **environ}
    environment.pop("PREFECT_API_URL", None)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"up-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(map(str, command)), env=environment, stdout=output, stderr=output, start_new_session=True
        )
    up = Up(process, f"http://127.0.0.1:{port}", log)
    try:
        up.wait_for(lambda: "watching" in log.read_text())
        yield up
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(120)


def moment(text: str) -> float:
    """A time of the server's, in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()
