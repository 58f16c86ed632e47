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

from flows.server import lasting_settings

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


@pytest.mark.parametrize(("given", "kept"), [(None, 90), ("864000", 10)])
def test_a_lasting_server_deletes_old_runs_by_the_users_period_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, given: str | None, kept: int
):
    from prefect.settings import Settings

    name = "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"
    monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv(name, given)
    for variable, value in lasting_settings(4200).items():
        monkeypatch.setenv(variable, value)
    server = Settings().server
    assert server.services.db_vacuum.enabled_vacuum_types == {"events", "flow_runs", "orphans"}
    assert server.services.db_vacuum.retention_period.days == kept
    assert server.concurrency.lease_storage.endswith("filesystem")
    assert server.events.expired_bucket_buffer.days == 7  # what automations wait for outlives its absence
    assert server.ui.api_url == "http://127.0.0.1:4200/api"


def answers(port: int | None) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port or 0)) == 0
