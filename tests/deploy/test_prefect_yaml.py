"""deploy/prefect.yaml against a real Prefect server, as the compose file's `deployments` service runs it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from flows.deployments import deployments
from flows.watch import EVENT
from tasks.networks.registry import BACKBONES
from tests.runs import make_run
from tests.up import free_port

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
PREFECT = Path(sys.executable).with_name("prefect")
GIVEN = {"source": "/photos", "name": "clothing", "workspace": "/workspace"}
NAMES = ("clothing-on-labels", "clothing-nightly", "clothing-manual")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API of a server on which the compose file's command has deployed all."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PATH": f"{PREFECT.parent}:{os.environ['PATH']}",
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_healthy(url)
            settings = {"HEADSTART_HOME": str(ROOT)} | {f"HEADSTART_{key.upper()}": GIVEN[key] for key in GIVEN}
            deploy = COMPOSE["services"]["deployments"]["command"]
            for _ in range(2):  # as often as one likes
                done = subprocess.run(
                    deploy, cwd=ROOT, env={**environment, **settings}, capture_output=True, text=True, timeout=200
                )
                assert done.returncode == 0, done.stdout + done.stderr
            yield url
        finally:
            process.terminate()


def _wait_until_healthy(url: str) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.3)
    pytest.fail("Prefect's server was not healthy within 180 s")


def deployed(url: str, name: str) -> dict[str, Any]:
    return httpx.get(f"{url}/deployments/name/retrain/{name}").json()


@pytest.mark.parametrize("name", NAMES)
def test_each_deployment_has_the_parameters_and_runs_one_at_a_time(url: str, name: str):
    found = deployed(url, name)
    assert found["parameters"] == GIVEN
    assert found["work_pool_name"] == "headstart"
    assert found["global_concurrency_limit"]["limit"] == 1
    assert found["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    [step] = found["pull_steps"]
    assert step["prefect.deployments.steps.set_working_directory"] == {"directory": str(ROOT)}


def test_one_goes_by_the_clock_and_the_others_do_not(url: str):
    schedules = {name: [each["schedule"]["cron"] for each in deployed(url, name)["schedules"]] for name in NAMES}
    assert schedules == {"clothing-on-labels": [], "clothing-nightly": ["0 3 * * *"], "clothing-manual": []}


def test_an_event_starts_the_first_with_what_the_event_says(url: str):
    automations = httpx.post(f"{url}/automations/filter", json={}).json()
    actions = [each["actions"][0] for each in automations]
    started = [action["deployment_id"] for action in actions if action["type"] == "run-deployment"]
    assert started == [deployed(url, NAMES[0])["id"]]
    resource = {"prefect.resource.id": "headstart.model.clothing"}
    said = {**GIVEN, "source": "/other photos/it's {{ odd }}", "new": 3}
    event = {"event": EVENT, "resource": resource, "payload": said, "occurred": "2026-01-02T03:04:05Z"}
    sent = [
        {**event, "id": "00000000-0000-4000-8000-000000000001"},
        {**event, "id": "00000000-0000-4000-8000-000000000001"},  # the same again
        {
            **event,
            "id": "00000000-0000-4000-8000-000000000002",
            "resource": {"prefect.resource.id": "headstart.model.x"},
        },
    ]
    httpx.post(f"{url}/events", json=sent).raise_for_status()
    _eventually(lambda: _runs(url, deployed(url, NAMES[0])["id"]))
    time.sleep(2)
    runs = _runs(url, deployed(url, NAMES[0])["id"])
    assert [run["parameters"] for run in runs] == [{**GIVEN, "source": said["source"]}]


def test_the_form_has_a_description_a_default_choices_and_bounds(url: str):
    schema = deployed(url, NAMES[2])["parameter_openapi_schema"]
    assert all(each["description"] for each in schema["properties"].values())
    sections = schema["definitions"]["Config"]["properties"]
    for section in sections.values():
        keys = schema["definitions"][section["$ref"].rsplit("/", 1)[-1]]["properties"]
        assert all(key["description"] and "default" in key for key in keys.values())
    rate = schema["definitions"]["Finetune"]["properties"]["learning_rate"]
    assert (rate["exclusiveMinimum"], rate["maximum"], rate["default"]) == (0, 1, 0.002)
    assert rate["description"].endswith("by a cosine. (above 0 and at most 1)")
    assert schema["definitions"]["Backbone"]["properties"]["precision"]["enum"] == ["fp32", "int8"]
    assert schema["definitions"]["Backbone"]["properties"]["name"]["enum"] == list(BACKBONES)


def test_headstart_up_registers_the_same_three(url: str, tmp_path: Path):
    ours = {each["name"]: each for each in deployments(make_run("/workspace", "/photos"), "0 3 * * *")}
    assert [name.replace("shapes", "clothing") for name in ours] == list(NAMES)
    for name, each in ours.items():
        theirs = deployed(url, name.replace("shapes", "clothing"))
        assert each["concurrency_limit"].limit == theirs["global_concurrency_limit"]["limit"]
        assert set(each["parameters"]) == {*theirs["parameters"], "config"}


def _runs(url: str, deployment: str) -> list[dict[str, Any]]:
    return httpx.post(f"{url}/flow_runs/filter", json={"deployments": {"id": {"any_": [deployment]}}}).json()


def _eventually(what: Any) -> Any:
    deadline = time.monotonic() + 60
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    return found
