"""A test session: one folder for all that it writes, and one Prefect server for all of its workers.

The process in which pytest was started makes the folder and removes it at the end; the workers that pytest-xdist starts
inherit it. The server reads a pipe of which that process holds the other end, so it ends with it, however that ends.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
from filelock import FileLock

STARTUP_TIMEOUT_S = 240
FOLDER = "TEST_SESSION_FOLDER"  # the variable that names it
_IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ


def prepare() -> None:
    """Turns this process and those that it starts to the session's folder. Call it before any library is imported."""
    if not _IS_WORKER:
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="headstart-tests-")
        os.mkfifo(folder() / "pipe")
        lifeline = os.open(folder() / "pipe", os.O_RDWR)
        atexit.register(_end, lifeline)
    # uv's packages stay where they are; what libraries keep in the user's home goes into the folder.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("UV_CACHE_DIR", str(cache / "uv"))
    places = {"TMPDIR": "tmp", "XDG_CACHE_HOME": "cache", "KERAS_HOME": "keras", "TFDS_DATA_DIR": "tfds"}
    for variable, name in {
        **places,
        "PREFECT_HOME": f"prefect-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}",
    }.items():
        os.environ[variable] = str(folder() / name)
        (folder() / name).mkdir(exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"]
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    os.environ["DO_NOT_TRACK"] = "1"
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.pop("PREFECT_API_URL", None)
    # Without bytecode each of the many processes would compile what it imports: TensorFlow takes half a minute then.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def folder() -> Path:
    return Path(os.environ[FOLDER])


def server_url() -> str:
    """The API of the session's Prefect server, which has no UI and no services; whoever asks first starts it."""
    from flows.server import EPHEMERAL
    from tests.up import free_port

    known = folder() / "server"
    with FileLock(folder() / "server.lock"):
        if not known.exists():
            port = free_port()
            environ = {**os.environ, **EPHEMERAL, "PREFECT_HOME": str(folder() / "prefect-server")}
            with (folder() / "pipe").open("rb") as lifeline, (folder() / "server.log").open("wb") as log:
                command = [sys.executable, "-m", "flows.server", str(port)]
                process = subprocess.Popen(command, env=environ, stdin=lifeline, stdout=log, stderr=log)
            _wait_until_healthy(f"http://127.0.0.1:{port}/api", process)
            known.write_text(f"{process.pid} http://127.0.0.1:{port}/api")
        return known.read_text().split()[1]


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=10).status_code == 200:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the session's Prefect server did not start: {(folder() / 'server.log').read_text()}")
        time.sleep(0.1)


def _end(lifeline: int) -> None:
    os.close(lifeline)
    with contextlib.suppress(OSError, psutil.Error):
        psutil.Process(int((folder() / "server").read_text().split()[0])).wait(30)
    shutil.rmtree(folder(), ignore_errors=True)
