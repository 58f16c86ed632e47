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
from flows.inbox import EVENT as UNFAMILIAR
from flows.watch import EVENT
from tasks.config import EMBEDDED_TEXT, parse_config
from tasks.networks.registry import BACKBONES
from tests.prefect_server import prefect_server
from tests.runs import make_run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
GIVEN = {"source": "/photos", "name": "clothing", "workspace": "/workspace"}
NAMES = ("clothing-on-labels", "clothing-nightly", "clothing-manual")
NEXT = "clothing-next"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API of a server on which the compose file's command has deployed all."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as server:
        settings = {"HEADSTART_HOME": str(ROOT)} | {f"HEADSTART_{key.upper()}": GIVEN[key] for key in GIVEN}
        environ = {**server.environ, **settings, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        deploy = COMPOSE["services"]["deployments"]["command"]
        for _ in range(2):  # as often as one likes
            done = subprocess.run(deploy, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        yield f"{server.url}/api"


def deployed(url: str, name: str) -> dict[str, Any]:
    flow = "next" if name == NEXT else "retrain"
    return httpx.get(f"{url}/deployments/name/{flow}/{name}", timeout=100).json()


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
    automations = httpx.post(f"{url}/automations/filter", json={}, timeout=100).json()
    actions = [each["actions"][0] for each in automations]
    started = [action["deployment_id"] for action in actions if action["type"] == "run-deployment"]
    assert sorted(started) == sorted([deployed(url, NAMES[0])["id"], deployed(url, NEXT)["id"]])
    odd, later = "/other photos/it's {{ odd }}", "/later"

    def event(number: int, model: str, source: str) -> dict[str, Any]:
        return {
            "event": EVENT,
            "id": f"00000000-0000-4000-8000-{number:012}",
            "resource": {"prefect.resource.id": f"headstart.model.{model}"},
            "payload": {**GIVEN, "source": source, "new": 3},
            "occurred": "2026-01-02T03:04:05Z",
        }

    def sources() -> list[str]:
        return [run["parameters"]["source"] for run in _runs(url, deployed(url, NAMES[0])["id"])]

    # The second is the first again, the third another model's; the last one comes when all are answered.
    _send(url, event(1, "clothing", odd), event(1, "clothing", odd), event(2, "x", odd))
    _eventually(lambda: odd in sources())
    _send(url, event(3, "clothing", later))
    _eventually(lambda: later in sources())
    assert sorted(sources()) == [later, odd]
    assert all(
        {**run["parameters"], "source": ""} == {**GIVEN, "source": ""}
        for run in _runs(url, deployed(url, NAMES[0])["id"])
    )


def test_unfamiliar_images_start_the_choice_of_what_to_label_next(url: str):
    event = {
        "event": UNFAMILIAR,
        "id": "00000000-0000-4000-8000-000000000009",
        "resource": {"prefect.resource.id": "headstart.model.clothing"},
        "payload": {"name": "clothing", "workspace": "/workspace", "pool": "/workspace/inbox/clothing"},
        "occurred": "2026-01-02T03:04:05Z",
    }
    _send(url, event)
    _eventually(lambda: bool(_runs(url, deployed(url, NEXT)["id"])))
    [run] = _runs(url, deployed(url, NEXT)["id"])
    assert run["parameters"]["pool"] == "/workspace/inbox/clothing"


def test_the_form_has_a_description_a_default_choices_and_bounds(url: str):
    schema = deployed(url, NAMES[2])["parameter_openapi_schema"]
    assert all(each["description"] for each in schema["properties"].values())
    sections = schema["definitions"]["Config"]["properties"]
    for name, section in sections.items():
        # One section is shown, the others are unfolded by a click: each is null at first.
        folded, reference = section.get("anyOf", (None, section))
        assert (folded is None) == (name == "backbone")
        assert folded is None or (folded["type"], section["default"]) == ("null", None)
        assert folded is None or section["description"]
        keys = schema["definitions"][reference["$ref"].rsplit("/", 1)[-1]]["properties"]
        assert all(key["description"] and "default" in key for key in keys.values())
    assert schema["properties"]["config"]["default"] == {}
    rate = schema["definitions"]["Finetune"]["properties"]["learning_rate"]
    assert (rate["exclusiveMinimum"], rate["maximum"], rate["default"]) == (0, 1, 0.003)
    assert rate["description"].endswith("by a cosine. (above 0 and at most 1)")
    assert schema["definitions"]["Backbone"]["properties"]["precision"]["enum"] == ["fp32", "int8"]
    names, files = schema["definitions"]["Backbone"]["properties"]["name"]["anyOf"]
    assert names["enum"] == [*BACKBONES, EMBEDDED_TEXT]
    assert files["pattern"] == r"\.onnx$"


def test_what_the_form_gives_of_folded_sections_is_accepted(url: str):
    given = {**GIVEN, "config": {"backbone": {"name": "embedded"}, "finetune": {"epochs": 3}, "auto": None}}
    started = httpx.post(
        f"{url}/deployments/{deployed(url, NAMES[2])['id']}/create_flow_run",
        json={"parameters": given, "enforce_parameter_schema": True},
        timeout=100,
    )
    assert started.status_code == 201, started.text
    config = parse_config(started.json()["parameters"]["config"])
    assert config == parse_config({"backbone": {"name": "embedded"}, "finetune": {"epochs": 3}})


def test_a_deployment_gives_what_was_set_and_no_default(tmp_path: Path):
    run = make_run("/workspace", "/photos", config={"finetune": {"epochs": 6}})  # set, and equal to the default
    for _, each in deployments(run, "0 3 * * *"):
        assert each["parameters"]["config"] == {"finetune": {"epochs": 6}}


def test_what_to_label_next_has_a_deployment_that_takes_a_pool(url: str):
    found = deployed(url, NEXT)
    assert {**found["parameters"], "pool": ""} == {"pool": "", "name": "clothing", "workspace": "/workspace"}
    assert found["global_concurrency_limit"]["limit"] == 1
    assert {"pool", "count", "again"} <= set(found["parameter_openapi_schema"]["properties"])


def test_headstart_up_registers_the_same(url: str, tmp_path: Path):
    ours = {each["name"]: each for _, each in deployments(make_run("/workspace", "/photos"), "0 3 * * *")}
    assert [name.replace("shapes", "clothing") for name in ours] == [*NAMES, NEXT]
    for name, each in ours.items():
        theirs = deployed(url, name.replace("shapes", "clothing"))
        assert each["concurrency_limit"].limit == theirs["global_concurrency_limit"]["limit"]
        assert set(each["parameters"]) == {*theirs["parameters"], "config"} | (
            {"pool"} if name.endswith("-next") else set()
        )


def _send(url: str, *events: dict[str, Any]) -> None:
    httpx.post(f"{url}/events", json=events, timeout=100).raise_for_status()


def _runs(url: str, deployment: str) -> list[dict[str, Any]]:
    wanted = {"deployments": {"id": {"any_": [deployment]}}}
    return httpx.post(f"{url}/flow_runs/filter", json=wanted, timeout=100).json()


def _eventually(what: Any) -> Any:
    deadline = time.monotonic() + 240
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    return found
