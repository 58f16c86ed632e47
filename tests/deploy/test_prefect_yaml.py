"""deploy/prefect.yaml against a real Prefect server, as the compose file's `deployments` service runs it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
PREFECT = Path(sys.executable).with_name("prefect")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server(tmp_path) -> Iterator[dict[str, str]]:
    """The environment of a client of a fresh server."""
    port = free_port()
    environment = {
        **os.environ,
        "PATH": f"{PREFECT.parent}:{os.environ['PATH']}",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_healthy(environment["PREFECT_API_URL"])
            yield environment
        finally:
            process.terminate()


def _wait_until_healthy(url: str) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.3)
    pytest.fail("Prefect's server was not healthy within 90 s")


def test_the_deployment_is_registered_with_its_parameters(server):
    settings = {"HEADSTART_HOME": str(ROOT), "HEADSTART_NAME": "clothing"}
    settings |= {"HEADSTART_SOURCE": "/photos", "HEADSTART_WORKSPACE": "/workspace"}
    command = COMPOSE["services"]["deployments"]["command"]
    done = subprocess.run(command, cwd=ROOT, env={**server, **settings}, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    found = httpx.get(f"{server['PREFECT_API_URL']}/deployments/name/retrain/retrain").json()
    assert found["parameters"] == {"source": "/photos", "name": "clothing", "workspace": "/workspace"}
    assert found["work_pool_name"] == "headstart"
    assert found["schedules"][0]["schedule"]["interval"] == 3600
    assert found["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    (step,) = found["pull_steps"]
    assert step["prefect.deployments.steps.set_working_directory"] == {"directory": str(ROOT)}
