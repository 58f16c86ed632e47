"""Killed with SIGKILL, a deployment's run is marked crashed, told of, started again, and ends as if nothing had been.

A real server, its automations, a runner and a receiver of webhooks, all on this machine.
"""

from __future__ import annotations

import hashlib
import http.server
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
from prefect.settings.models.flows import FlowsSettings

from tasks.workspace import Workspace
from tests import photos
from tests.prefect_server import PrefectServer, prefect_server
from tests.runs import process_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

SILENCE_S = 30
AWAY_S = 80  # for which a server is away; Prefect by itself forgets what was waited for after 60 s
PAUSE_S = 1  # between two events: the server takes two at once, and SQLite one writer
LIMIT_S = 280  # for what a quiet machine does in seconds
# A crash that is reported while SQLite is locked is lost; then the run is started again 480 s after its last heartbeat.
RESTART_S = 480 + LIMIT_S
CONFIG = {
    "backbone": {"name": "embedded", "image_size_px": 64},
    "split": {"test_share": 0.25},
    "evaluate": {"cross_fit_s": 0},
}
RUNNER = """
import json, sys
from flows.retrain import retrain
retrain.serve("tints", parameters=json.loads(sys.argv[1]))
"""
# A stand-in of the flow's name, in each of its states: what is posted depends on the state alone.
OUTCOMES = """
from prefect import flow
from prefect.states import Completed, Failed
@flow(name="retrain", flow_run_name="hats")
def retrain(state):
    if state == "Failed":
        raise ValueError('a "quoted" fault')
    return Completed(name=state, message=f"why {state}", data={})
for state in ("Promoted", "Unchanged", "Refused", "InvalidData", "Failed"):
    retrain(state, return_state=True)
"""


@pytest.fixture
def posted() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a receiver of webhooks, and what was posted to it so far."""
    received: list[dict[str, Any]] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", received
    server.shutdown()


@pytest.fixture
def server(
    tmp_path_factory: pytest.TempPathFactory, posted: tuple[str, list[dict[str, Any]]]
) -> Iterator[PrefectServer]:
    """A server of its own for each test: on SQLite, one that still works on another's events may lose a crash's."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as running:
        for _ in range(2):  # given again, the command changes nothing
            command = [sys.executable, "-m", "flows.cli", "automations", "--webhook", posted[0]]
            done = subprocess.run(command, env=running.environ, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        yield running


def test_there_is_one_automation_of_each_name(server: PrefectServer):
    found = _post(server, "/automations/filter", {})
    within_s = {each["name"]: each["trigger"]["within"] for each in found}
    # A shorter one calls living runs crashed.
    assert within_s["headstart-crashed"] > 2 * FlowsSettings.model_fields["heartbeat_frequency"].default
    assert within_s["headstart-stranded"] == within_s["headstart-crashed"] + 60
    assert sorted(each["name"] for each in found) == [
        *("headstart-again", "headstart-crashed", "headstart-next", "headstart-notify", "headstart-stranded")
    ]


def test_failures_and_refusals_are_posted_and_nothing_else(server: PrefectServer, posted):
    received = posted[1]
    subprocess.run([sys.executable, "-c", OUTCOMES], env=server.environ, capture_output=True, check=True)
    # On SQLite the server may post one state twice.
    _wait(lambda: {each["state"] for each in received} >= {"Refused", "InvalidData", "Failed"}, "the posts")
    assert {each["state"] for each in received} == {"Refused", "InvalidData", "Failed"}
    assert {each["run"] for each in received} == {"hats"}
    by_state = {each["state"]: each for each in received}
    assert by_state["Refused"]["text"] == "hats: Refused. why Refused"
    assert 'a "quoted" fault' in by_state["Failed"]["message"]
    assert by_state["Failed"]["url"].startswith(server.url)
    assert all(each["id"] for each in received)


@pytest.fixture
def impatient(server: PrefectServer) -> None:
    """The automations do not wait for minutes."""

    within_s = {"headstart-crashed": SILENCE_S, "headstart-stranded": SILENCE_S + 10}
    for automation in _post(server, "/automations/filter", {}):
        if automation["name"] in within_s:
            automation["trigger"]["within"] = within_s[automation["name"]]
            body = {key: automation[key] for key in ("name", "description", "enabled", "trigger", "actions")}
            address = f"{server.url}/api/automations/{automation['id']}"
            httpx.put(address, json=body, timeout=100).raise_for_status()


@pytest.mark.usefixtures("impatient")
def test_a_run_whose_worker_died_before_it_started_is_scheduled_again(server: PrefectServer):
    then = {"stranded": None, "started": {"type": "RUNNING"}, "stranded by hand": None}
    runs = {name: _create_run(server, name, by_hand="by hand" in name) for name in then}
    for name, state in then.items():
        _set_state(server, runs[name], {"type": "PENDING"})
        if state:
            _set_state(server, runs[name], state)
    expected = {
        "stranded": ["Pending", "AwaitingRetry"],
        "started": ["Pending", "Running"],
        "stranded by hand": ["Pending"],
    }

    _check_that_they_come_to(server, runs, expected)


@pytest.mark.usefixtures("impatient")
def test_a_run_that_fell_silent_is_marked_crashed_and_one_that_ended_or_waits_is_left_alone(
    server: PrefectServer, posted
):
    reported = {"type": "CRASHED", "message": "reported"}
    then = {
        "reported": reported,
        "reported by hand": reported,
        "in a queue": {"type": "SCHEDULED", "name": "Interrupted"},
        "being cancelled": {"type": "CANCELLING"},
        "cancelled": {"type": "CANCELLED"},
        "promoted": {"type": "COMPLETED", "name": "Promoted"},
        "silent": None,
        "silent by hand": None,
    }
    runs = _runs_that_sent_a_heartbeat(server, then)
    expected = {
        "reported": ["Running", "Crashed", "AwaitingRetry"],
        "reported by hand": ["Running", "Crashed"],
        "in a queue": ["Running", "Interrupted"],
        "being cancelled": ["Running", "Cancelling"],
        "cancelled": ["Running", "Cancelled"],
        "promoted": ["Running", "Promoted"],
        "silent": ["Running", "Crashed", "AwaitingRetry"],
        "silent by hand": ["Running", "Crashed"],
    }

    _check_that_they_come_to(server, runs, expected)
    assert _state(server, runs["reported by hand"])["state"]["message"] == "reported"
    assert "No heartbeat" in _state(server, runs["silent by hand"])["state"]["message"]
    # A crash that was lost is not posted: of four, on a server with little to do, at least one is.
    _wait(lambda: "Crashed" in {each["state"] for each in posted[1]}, "a post")


@pytest.mark.usefixtures("impatient")
def test_a_run_whose_crash_was_lost_is_started_again_also_where_the_server_was_away_meanwhile(server: PrefectServer):
    _disable(server, "headstart-again")  # as if each event of a crash were lost
    then = {
        "reported": {"type": "CRASHED"},
        "reported by hand": {"type": "CRASHED"},
        "silent": None,
        "promoted": {"type": "COMPLETED", "name": "Promoted"},
    }
    expected = {
        "reported": ["Running", "Crashed", "AwaitingRetry"],
        "reported by hand": ["Running", "Crashed"],
        "silent": ["Running", "Crashed", "AwaitingRetry"],
        "promoted": ["Running", "Promoted"],
    }

    for is_away in (False, True):
        runs = _runs_that_sent_a_heartbeat(server, then)
        if is_away:
            time.sleep(PAUSE_S)
            server.kill()
            time.sleep(SILENCE_S + AWAY_S)
            server.start()
        _check_that_they_come_to(server, runs, expected)


def test_a_killed_run_is_started_again_and_ends_as_if_nothing_had_been(server: PrefectServer, tmp_path: Path):
    source = photos.class_folders(tmp_path / "photos", {"red": 40, "green": 40, "blue": 40})
    disturbed = Workspace(str(tmp_path / "disturbed"))
    parameters = {"source": str(source), "name": "tints", "workspace": disturbed.url, "config": CONFIG}
    command = [sys.executable, "-c", RUNNER, json.dumps(parameters)]
    environ = {**server.environ, "PREFECT_RUNNER_POLL_FREQUENCY": "2"}
    with (tmp_path / "runner.log").open("wb") as log:
        runner = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
    try:
        flow_run = _start_deployment(server)
        _kill_once(runner, lambda: bool(disturbed.names("artifacts/extractor")), "extraction")
        _wait_for_restart(server, flow_run, 2)
        _kill_once(runner, lambda: bool(_done(disturbed, "finetune")), "the end of the training")
        head = _done(disturbed, "finetune")
        _wait_for_restart(server, flow_run, 3)
        # As long as a restart: on a busy machine LIMIT_S passed once, for a reason that was not found.
        _wait(lambda: _state(server, flow_run)["state_name"] == "Promoted", "the end", RESTART_S)
    finally:
        for child in [*psutil.Process(runner.pid).children(recursive=True), runner]:
            child.kill()
    assert _done(disturbed, "finetune") == head  # the training was not repeated
    assert [file.name for file in disturbed.files("runs")].count("summary.json") == 1  # of the last start
    assert _states(server, flow_run).count("Crashed") == 2
    undisturbed = Workspace(str(tmp_path / "undisturbed"))
    assert digests(disturbed) == digests(_retrained_while_the_server_restarts(server, source, undisturbed))
    [last] = _post(server, "/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
    assert (last["state_name"], last["name"].split(" · ")[-1]) == ("Promoted", "promoted as v1")


def digests(workspace: Workspace) -> dict[str, Any]:
    """What a run has to come to, however often it was interrupted."""
    manifest = workspace.read_json("models/tints/1/manifest.json")
    lineage = manifest["lineage"]
    return {
        # What model.onnx answers to each held-out image; its own bytes differ between two exports of one model.
        "answers": hashlib.sha256(
            workspace.read_bytes(f"{lineage['artifacts']['evaluate']}/predictions.parquet")
        ).hexdigest(),
        "metrics": manifest["metrics"],
        "gates": [(gate["name"], gate["passed"]) for gate in manifest["decision"]["gates"]],
        **{key: lineage[key] for key in ("snapshot", "recipe", "head_digest", "config_digest")},
    }


def _retrained_while_the_server_restarts(server: PrefectServer, source: Path, workspace: Workspace) -> Workspace:
    command = [sys.executable, "-m", "flows.cli", "retrain", str(source), "--name", "tints"]
    command += ["--workspace", workspace.url, "--backbone", "embedded"]
    command += [
        "--set",
        "backbone.image_size_px=64",
        "--set",
        "split.test_share=0.25",
        "--set",
        "evaluate.cross_fit_s=0",
    ]
    with subprocess.Popen(command, env=server.environ, stderr=subprocess.PIPE, text=True) as process:
        _wait(lambda: bool(_done(workspace, "split")) or process.poll() is not None, "the snapshot")
        server.kill()
        server.start()
        said = process.communicate(timeout=LIMIT_S)[1]
    assert process.returncode == 0, said
    return workspace


def _disable(server: PrefectServer, name: str) -> None:
    [found] = [each for each in _post(server, "/automations/filter", {}) if each["name"] == name]
    address = f"{server.url}/api/automations/{found['id']}"
    httpx.patch(address, json={"enabled": False}, timeout=100).raise_for_status()


def _runs_that_sent_a_heartbeat(server: PrefectServer, then: Mapping[str, dict[str, Any] | None]) -> dict[str, UUID]:
    """Runs by name that ran and sent a heartbeat; each is then in the state that is given with its name, if any."""
    runs = {name: _create_run(server, name, by_hand="by hand" in name) for name in then}
    for flow_run in runs.values():
        _set_state(server, flow_run, {"type": "RUNNING"})
    _wait(lambda: all(_events_of(server, each) for each in runs.values()), "the events")
    for name, state in then.items():
        _send_heartbeat(server, runs[name])
        if state:
            time.sleep(PAUSE_S)
            _set_state(server, runs[name], state)
            time.sleep(PAUSE_S)
    return runs


def _check_that_they_come_to(server: PrefectServer, runs: Mapping[str, UUID], expected: dict[str, list[str]]) -> None:
    """Waits until runs have passed through these states since they were made, and that nothing more comes of them."""

    def found() -> dict[str, list[str]]:
        return {name: _states(server, flow_run)[1:] for name, flow_run in runs.items()}

    _wait(lambda: found() == expected, "the marks and the next starts")
    time.sleep(3)
    assert found() == expected


def _create_run(server: PrefectServer, name: str, by_hand: bool) -> UUID:
    """A run of a deployment that nobody works for, or of none."""
    flow = _post(server, "/flows/", {"name": "retrain"})["id"]
    body = {"name": name, "state": {"type": "SCHEDULED"}}
    if by_hand:
        return UUID(_post(server, "/flow_runs/", {**body, "flow_id": flow})["id"])
    deployment = _post(server, "/deployments/", {"name": "idle", "flow_id": flow})["id"]
    return UUID(_post(server, f"/deployments/{deployment}/create_flow_run", body)["id"])


def _set_state(server: PrefectServer, flow_run: UUID, state: dict[str, Any]) -> None:
    done = _post(server, f"/flow_runs/{flow_run}/set_state", {"state": state, "force": True})
    assert done["status"] == "ACCEPT"


def _send_heartbeat(server: PrefectServer, flow_run: UUID) -> None:
    """As a run's process sends it: of the same resources as the run's other events."""
    concerns = {key: _events_of(server, flow_run)[0][key] for key in ("resource", "related")}
    event = {"id": str(uuid4()), "event": "prefect.flow-run.heartbeat", "occurred": datetime.now(UTC).isoformat()}
    _post(server, "/events", [event | concerns])


def _events_of(server: PrefectServer, flow_run: UUID) -> list[dict[str, Any]]:
    wanted = {"resource": {"id": [f"prefect.flow-run.{flow_run}"]}}
    return _post(server, "/events/filter", {"filter": wanted})["events"]


def _states(server: PrefectServer, flow_run: UUID) -> list[str]:
    """The names of the states that a run has gone through; one that was set twice in a row counts once."""
    address = f"{server.url}/api/flow_run_states/"
    found = httpx.get(address, params={"flow_run_id": str(flow_run)}, timeout=100).json()
    return [name for name, _ in itertools.groupby(state["name"] for state in found)]


def _post(server: PrefectServer, path: str, body: Any) -> Any:
    """Tries again while SQLite is locked by the server's own services, which answers 503, as Prefect's client does."""
    for _ in range(30):
        answer = httpx.post(f"{server.url}/api{path}", json=body, timeout=100)
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            break
        time.sleep(1)
    answer.raise_for_status()
    return answer.json() if answer.content else None


def _start_deployment(server: PrefectServer) -> UUID:
    address = f"{server.url}/api/deployments/name/retrain/tints"
    _wait(lambda: httpx.get(address, timeout=100).status_code == 200, "the deployment")
    deployment = httpx.get(address, timeout=100).json()["id"]
    return UUID(_post(server, f"/deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"])


def _state(server: PrefectServer, flow_run: UUID) -> dict[str, Any]:
    return httpx.get(f"{server.url}/api/flow_runs/{flow_run}", timeout=100).json()


def _wait_for_restart(server: PrefectServer, flow_run: UUID, count: int) -> None:
    _wait(lambda: _state(server, flow_run)["run_count"] == count, f"start {count}", RESTART_S)


def _kill_once(runner: subprocess.Popen[bytes], reached: Callable[[], bool], moment: str) -> None:
    """Kills the flow's process with SIGKILL as soon as a moment is reached: that process holds the model's lock."""
    _wait(reached, moment)
    process = process_of(runner.pid, "tints")
    assert process, f"the run had ended at {moment}"
    process.kill()


def _done(workspace: Workspace, stage: str) -> list[Any]:
    """The records of a stage's finished artifacts, and when they were written."""
    records = [file for file in workspace.files(f"artifacts/{stage}") if file.name == "artifact.json"]
    return [(workspace.read_json(file.path), file.modified) for file in records]


def _wait(reached: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < deadline, f"{what} did not come within {limit_s} s"
        time.sleep(0.1)
