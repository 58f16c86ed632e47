"""What starts a run again whose process died, and when it no longer does; with real servers: test_crash, test_up."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml
from prefect.client.schemas.objects import State, StateType
from prefect.states import AwaitingRetry, Cancelled, Completed, Crashed, Failed, Pending, Running, Scheduled

from flows import run_state, up
from flows.automations import FOLDER, recovery
from flows.deployments import FLOWS
from flows.run_state import GIVEN_UP, INTERRUPTED, MAX_CRASHES, RESUMED, STATES, crashes
from tasks.errors import HeadstartError

START = [Pending(), Running()]
DEATH = [*START, Crashed(), AwaitingRetry()]
STOP = [*START, Crashed(), Scheduled(name=INTERRUPTED)]


class Server:
    """What is asked and told of the runs, as Prefect's client has it; while `away`, each question fails."""

    def __init__(self, *histories: list[State]) -> None:
        self.histories = {uuid4(): list(history) for history in histories}
        self.away = 0

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read_flow_run_states(self, flow_run_id: UUID) -> list[State]:
        return self.histories[flow_run_id]

    def read_flow_runs(self, flow_run_filter: Any, **_: object) -> list[Any]:
        if self.away:
            self.away -= 1
            raise ConnectionError("nobody answers")
        wanted: list[StateType] = flow_run_filter.state.type.any_
        found = {each: history[-1] for each, history in self.histories.items() if history[-1].type in wanted}
        return [SimpleNamespace(id=each, state=state) for each, state in found.items()]

    def read_flow_run(self, flow_run_id: UUID) -> Any:
        return SimpleNamespace(state=self.histories[flow_run_id][-1])

    def set_flow_run_state(self, flow_run_id: UUID, state: State, force: bool = False) -> None:
        self.histories[flow_run_id].append(state)


@pytest.fixture(scope="module")
def automations() -> dict[str, Any]:
    files = [yaml.safe_load(path.read_text()) for path in FOLDER.glob("*.yaml")]
    return {each["name"]: each for file in files for each in file["automations"]}


def test_silence_is_ended_by_every_end_and_by_a_place_in_the_queue(automations: dict[str, Any]):
    expected = set(automations["headstart-crashed"]["trigger"]["expect"])
    names = {*STATES.values(), "heartbeat", AwaitingRetry().name, INTERRUPTED}
    names |= {"Completed", "Failed", "Cancelled", "Cancelling"}
    assert names <= {event.removeprefix("prefect.flow-run.") for event in expected}


@pytest.mark.parametrize("flow", [flow.name for flow in FLOWS.values()])
def test_a_run_of_any_of_the_deployments_is_covered(automations: dict[str, Any], flow: str):
    from prefect.server.events.schemas.automations import EventTrigger  # a second, which no other test needs
    from prefect.server.events.schemas.events import ReceivedEvent, Resource

    run = Resource.model_validate({"prefect.resource.id": f"prefect.flow-run.{uuid4()}"})
    roles = {"flow": flow, "deployment": "clothing-something"}
    related = [
        {
            "prefect.resource.id": f"prefect.{role}.{uuid4()}",
            "prefect.resource.role": role,
            "prefect.resource.name": name,
        }
        for role, name in roles.items()
    ]
    event = {"occurred": datetime.now(UTC), "id": uuid4(), "resource": run, "related": related}
    for name in ("headstart-crashed", "headstart-again", "headstart-stranded", "headstart-notify"):
        trigger = EventTrigger.model_validate(automations[name]["trigger"])
        state = next(iter(trigger.after or trigger.expect))
        assert trigger.covers(ReceivedEvent.model_validate(event | {"event": state})), name
    other = [each | {"prefect.resource.name": "sweep"} for each in related]
    assert not trigger.covers(ReceivedEvent.model_validate(event | {"event": state, "related": other}))


def test_no_event_that_starts_a_run_again_is_counted_by_the_other_automation_too(automations: dict[str, Any]):
    again = automations["headstart-again"]["trigger"]["expect"]
    for name in ("headstart-crashed", "headstart-stranded"):
        counted = automations[name]["trigger"]["expect"]
        assert set(again).isdisjoint(counted)
        assert not any("*" in event for event in counted)


@pytest.mark.parametrize("silence_s", [None, 90])
def test_a_silent_run_is_marked_crashed_a_minute_before_it_is_scheduled_again(silence_s: int | None):
    within_s = {each["name"]: each["trigger"]["within"] for each in recovery(silence_s)}
    first_s = silence_s or 420
    assert within_s == {"headstart-crashed": first_s, "headstart-again": 0, "headstart-stranded": first_s + 60}


def test_up_and_the_automation_say_the_same_of_a_run_that_is_started_again(automations: dict[str, Any]):
    [action] = automations["headstart-again"]["actions"]
    assert (action["state"], action["name"], action["message"]) == ("SCHEDULED", AwaitingRetry().name, RESUMED)


@pytest.mark.parametrize(
    ("history", "died"),
    [
        ([Scheduled()], 0),
        ([Scheduled(), *START, Completed()], 0),
        ([Scheduled(), *START, Crashed()], 1),
        ([Scheduled(), *DEATH * 2, *START], 2),
        ([Scheduled(), *STOP * 6, *START], 0),
        # Its server's automation answered the crash, before the stop did.
        ([Scheduled(), *START, Crashed(), AwaitingRetry(), Scheduled(name=INTERRUPTED), *START], 0),
        ([Scheduled(), *DEATH * 4, *STOP, *START, Crashed()], 1),
        # One crash that was answered four times.
        ([Scheduled(), *START, Crashed(), *[AwaitingRetry()] * 4, *START], 1),
    ],
)
def test_crashes_since_the_last_stop_count_as_deaths_and_stops_do_not(history: list[State], died: int):
    assert crashes(history) == died


@pytest.mark.parametrize(("cycle", "fails"), [(DEATH, True), (STOP, False)])
def test_a_run_fails_that_died_time_and_again_and_not_one_that_was_stopped_as_often(
    cycle: list[State], fails: bool, monkeypatch: pytest.MonkeyPatch
):
    for count in range(MAX_CRASHES + 2):
        server = Server([Scheduled(), *cycle * count, *START])
        [flow_run_id] = server.histories
        monkeypatch.setattr(run_state, "flow_run", SimpleNamespace(run_count=count + 1, id=flow_run_id))
        monkeypatch.setattr(run_state, "get_client", lambda sync_client, server=server: server)
        if fails and count >= MAX_CRASHES:
            with pytest.raises(HeadstartError, match=f"crashed {MAX_CRASHES} times"):
                run_state.check_restarts()
        else:
            run_state.check_restarts()


def test_up_starts_dead_runs_again_until_they_died_too_often_and_outlasts_an_absence_of_the_server(
    monkeypatch: pytest.MonkeyPatch,
):
    server = Server(
        [Scheduled(), *START, Crashed()],
        [Scheduled(), *DEATH * (MAX_CRASHES - 1), *START, Crashed()],
        [Scheduled(), *START, Failed()],
    )
    server.away = 2
    monkeypatch.setattr(up, "get_client", lambda sync_client: server)
    monkeypatch.setattr(up, "LOOK_S", 0.01)
    stop, said = threading.Event(), []

    def report(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            stop.set()

    up._recover([], stop, report)
    ends = [history[-1] for history in server.histories.values()]
    assert [(state.name, state.message) for state in ends] == [
        ("AwaitingRetry", RESUMED),
        ("Failed", GIVEN_UP),
        ("Failed", None),
    ]
    assert [text.split(":")[0] for text in said] == [
        "can't look for crashed runs, and will try again",  # once for both times
        "a run's process crashed, and the run resumes",
        "a run failed",
    ]


def test_a_stop_schedules_what_it_cut_short_again_and_nothing_that_came_to_its_end(monkeypatch: pytest.MonkeyPatch):
    cut_short = [Running(), Crashed(), Failed(message="Task run is not set")]  # Prefect's own end at a signal
    ended = [Completed(), Cancelled()]
    server = Server(*([*START, state] for state in [*cut_short, *ended]))
    monkeypatch.setattr(up, "get_client", lambda sync_client: server)
    up._reschedule(set(server.histories))
    last = [history[-1].name for history in server.histories.values()]
    assert last == [INTERRUPTED] * 3 + ["Completed", "Cancelled"]
