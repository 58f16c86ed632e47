"""Prefect's ephemeral server lives as long as the process that started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

OWNER = """
import time
from flows.server import EphemeralServer
server = EphemeralServer()
server.wait()
print(server.api_url, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_its_owner_however_that_ends(ending: signal.Signals, tmp_path: Path):
    environ = {**os.environ, "PREFECT_HOME": str(tmp_path)}
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, env=environ)
    assert owner.stdout
    address = urlsplit(owner.stdout.readline().strip())
    assert answers(address.port)
    owner.send_signal(ending)
    owner.wait(120)
    deadline = time.monotonic() + 120
    while answers(address.port) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not answers(address.port)


def answers(port: int | None) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port or 0)) == 0
