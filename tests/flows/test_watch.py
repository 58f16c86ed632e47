"""The sensor against a server that notes what it is told: one event for what arrived, whatever fails in between."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Pending, Scheduled

from flows.debounce import DebounceSettings
from flows.watch import EVENT, REPEAT_S, Sensor, watch
from tasks.ingest.listing import listing_table, remember_listing, write_listing
from tasks.ingest.sources import list_source
from tasks.records import Run
from tasks.runs import one_at_a_time
from tasks.storage.corrections import Correction, Corrections, decide, read_corrections, undo
from tests import photos
from tests.runs import make_run


class Server:
    """Takes events, stores them when it is told to, and knows of runs."""

    def __init__(self) -> None:
        self.away = False
        self.stores = True
        self.taken: list[dict[str, Any]] = []
        self.stored: set[str] = set()
        self.flow_runs: list[FlowRun] = []

    @contextmanager
    def client(self) -> Iterator[Any]:
        if self.away:
            raise ConnectionError("nobody answers")
        yield self

    def request(self, method: str, path: str, json: Any) -> Any:
        if path == "/events/filter":
            [wanted] = json["filter"]["id"]["id"]
            return SimpleNamespace(json=lambda: {"events": [wanted] if wanted in self.stored else []})
        assert (method, path) == ("POST", "/events")
        self.taken += json
        if self.stores:
            self.stored |= {event["id"] for event in json}
        return None

    def read_flow_runs(self, **_: Any) -> list[FlowRun]:
        return self.flow_runs

    @property
    def events(self) -> list[str]:
        """The ids of what was taken, each once: the real one drops what it has seen."""
        return list(dict.fromkeys(event["id"] for event in self.taken))


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "w", photos.class_folders(tmp_path / "photos", {"cat": 3, "dog": 2}))


def sensor_of(run: Run, server: Server, said: list[str] | None = None, **settings: Any) -> Sensor:
    report = [].append if said is None else said.append
    return Sensor(run, DebounceSettings(**{"settle_s": 5, **settings}), report, server.client)


def settle(sensor: Sensor, start: float = 0.0, seconds: int = 8) -> None:
    for second in range(seconds):
        sensor.look(start + second)


def came_to_a_verdict(run: Run) -> None:
    write_listing(run, listing_table(list_source(run).entries, read_corrections(run.workspace)))
    remember_listing(run)


def test_one_event_says_what_came(run: Run, server: Server):
    said: list[str] = []
    settle(sensor_of(run, server, said))
    [event] = server.taken
    assert event["event"] == EVENT
    assert event["resource"]["prefect.resource.id"] == "headstart.model.shapes"
    payload = event["payload"]
    assert (payload["new"], payload["total"], payload["classes"]) == (5, 5, {"cat": 3, "dog": 2})
    assert (payload["source"], payload["name"], payload["workspace"]) == (run.source, "shapes", run.workspace.url)
    assert "5 new of 5 labelled images (cat 3, dog 2): announced" in said


def test_the_same_data_is_announced_once_also_by_a_sensor_that_was_killed(run: Run, server: Server):
    settle(sensor_of(run, server))
    settle(sensor_of(run, server), 100)
    came_to_a_verdict(run)
    settle(sensor_of(run, server), 200)
    assert len(server.events) == 1


def test_a_correction_is_announced_like_a_new_image_and_once(run: Run, server: Server):
    came_to_a_verdict(run)
    said: list[str] = []
    image = hashlib.sha256(next(Path(run.source).rglob("*.jpg")).read_bytes()).hexdigest()
    for number, change in enumerate(("made", "taken back"), start=1):
        if change == "made":
            assert decide(run.workspace, Correction(sha256=image, label="dog"))
        else:
            assert undo(run.workspace, image, by="", when="")
        settle(sensor_of(run, server, said), 200 * number, seconds=62)
        assert said == ["1 correction of labels: announced"] * number
        assert (server.taken[-1]["payload"]["new"], server.taken[-1]["payload"]["corrected"]) == (0, 1)
        came_to_a_verdict(run)
        settle(sensor_of(run, server, said), 200 * number + 100)
    assert len(server.events) == 2


def test_killed_between_the_note_and_the_event_it_sends_that_very_event(run: Run, server: Server):
    server.stores = False  # it stopped before it had stored what it took
    settle(sensor_of(run, server))
    first = server.events
    server.taken.clear()
    server.stores = True
    settle(sensor_of(run, server), 100)
    assert server.events == first


def test_a_server_that_forgot_the_event_gets_it_again(run: Run, server: Server):
    settle(sensor_of(run, server))
    other = Server()
    settle(sensor_of(run, other), 100)
    assert other.events == server.events


def test_a_sensor_whose_folders_were_moved_announces_them_where_they_are(run: Run, server: Server, tmp_path: Path):
    server.stores = False
    settle(sensor_of(run, server))
    (tmp_path / "w").rename(tmp_path / "new")
    moved = make_run(tmp_path / "new", run.source)
    settle(sensor_of(moved, server))
    assert [event["payload"]["workspace"] for event in server.taken] == [run.workspace.url, moved.workspace.url]


def test_what_comes_during_a_run_is_announced_once_after_it(run: Run, server: Server):
    sensor = sensor_of(run, server)
    settle(sensor)
    with one_at_a_time(run):
        write_listing(run, listing_table(list_source(run).entries, Corrections()))
        for batch in range(3):
            photos.class_folders(Path(run.source), {"cat": 2, "dog": 2}, start=100 * (batch + 1))
            settle(sensor, 100 * (batch + 1), seconds=20)
        remember_listing(run)
    assert len(server.events) == 1
    settle(sensor, 500)
    assert len(server.events) == 2
    assert server.taken[-1]["payload"]["new"] == 12


@pytest.mark.parametrize(
    ("state_at", "holds"),
    [
        (lambda now: Pending(timestamp=now), True),
        (lambda now: Scheduled(scheduled_time=now), True),
        (lambda now: Pending(timestamp=now - timedelta(hours=1)), False),
        (lambda now: Scheduled(scheduled_time=now + timedelta(hours=3)), False),
    ],
    ids=["picked up", "due", "lost", "tonight"],
)
def test_a_run_that_is_about_to_start_holds_the_event_back(
    run: Run, server: Server, state_at: Callable[[datetime], State], holds: bool
):
    given = {"name": "shapes", "workspace": run.workspace.url}
    state = state_at(datetime.now(UTC))
    due = state.state_details.scheduled_time
    server.flow_runs = [FlowRun(flow_id=UUID(int=0), state=state, parameters=given, next_scheduled_start_time=due)]
    settle(sensor_of(run, server))
    assert len(server.events) == (0 if holds else 1)
    server.flow_runs[0].parameters["name"] = "another"
    settle(sensor_of(run, server), 100)
    assert len(server.events) == 1


def test_how_a_run_ended_is_told_once(run: Run, server: Server):
    said: list[str] = []
    sensor = sensor_of(run, server, said)
    settle(sensor)
    summary = {
        "run_id": "20260101T000000-shapes-000001",
        "verdict": "refused",
        "reasons": ["worse"],
        "report": "r.html",
    }
    run.workspace.write_json(f"runs/{summary['run_id']}/summary.json", summary)
    came_to_a_verdict(run)
    settle(sensor, 20)
    settle(sensor_of(run, server, said), 40)
    assert [line for line in said if "refused" in line] == ["shapes: refused (worse); report: r.html"]


def test_nothing_is_announced_for_what_only_vanished(run: Run, server: Server):
    came_to_a_verdict(run)
    next(Path(run.source).rglob("*.jpg")).unlink()
    settle(sensor_of(run, server))
    assert server.taken == []


def test_an_event_that_nobody_answers_is_told(run: Run, server: Server):
    said: list[str] = []
    settle(sensor_of(run, server, said), seconds=50)
    assert sum("the event has started no run" in line for line in said) == 1
    assert len(server.events) == 1


def test_a_marker_is_needed_for_each_delivery(run: Run, server: Server):
    sensor = sensor_of(run, server, marker="_DONE")
    settle(sensor)
    assert server.taken == []
    marker = Path(run.source) / "_DONE"
    marker.touch()
    sensor.look(20.0)
    assert len(server.events) == 1
    came_to_a_verdict(run)
    settle(sensor, 30)
    photos.class_folders(Path(run.source), {"cat": 2}, start=100)
    settle(sensor, 100, seconds=20)
    assert len(server.events) == 1  # the marker is the last delivery's
    marker.unlink()
    marker.write_text("two")
    sensor.look(200.0)
    assert len(server.events) == 2


def test_an_empty_folder_is_waited_with_and_said_once(tmp_path: Path, server: Server):
    (tmp_path / "photos").mkdir()
    said: list[str] = []
    run = make_run(tmp_path / "w", tmp_path / "photos")
    sensor = sensor_of(run, server, said)
    settle(sensor)
    assert len(said) == 1
    assert "is empty" in said[0]
    photos.class_folders(tmp_path / "photos", {"cat": 3, "dog": 2})
    settle(sensor, 10)
    assert len(server.events) == 1


def test_a_server_that_is_away_is_waited_for(run: Run, server: Server, monkeypatch: pytest.MonkeyPatch):
    server.away = True
    said: list[str] = []
    monkeypatch.setattr("flows.watch.get_client", lambda sync_client: server.client())
    stop = threading.Event()
    settings = DebounceSettings(settle_s=0.2, poll_s=0.1)
    thread = threading.Thread(target=watch, args=(run, settings, stop, said.append))
    thread.start()
    _until(lambda: any("nobody answers" in line for line in said))
    server.away = False
    _until(lambda: len(server.events) == 1)
    stop.set()
    thread.join(120)
    assert not thread.is_alive()
    assert sum("can't look" in line for line in said) == 1


def test_a_probe_sees_whether_watching_works(run: Run, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    alive = tmp_path / "alive"
    monkeypatch.setattr("flows.watch.get_client", lambda sync_client: server.client())
    stop = threading.Event()
    settings = DebounceSettings(settle_s=0.2, poll_s=0.1)
    server.away = True
    said: list[str] = []
    thread = threading.Thread(target=watch, args=(run, settings, stop, said.append, alive))
    thread.start()
    _until(lambda: said)
    time.sleep(0.5)
    renewed_at_s = alive.stat().st_mtime if alive.exists() else 0.0  # looks before the first event need no server
    time.sleep(0.5)
    assert renewed_at_s == (alive.stat().st_mtime if alive.exists() else 0.0)
    server.away = False
    _until(lambda: alive.exists() and alive.stat().st_mtime > renewed_at_s)
    stop.set()
    thread.join(120)


def _until(happened: Any) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_got_no_verdict_is_announced_again_ever_more_rarely(run: Run, server: Server):
    """A run that failed, or was lost with its worker, leaves the images as new as they were."""
    said: list[str] = []
    sensor = sensor_of(run, server, said)
    settle(sensor)
    assert len(server.events) == 1
    settle(sensor, REPEAT_S - 20)
    assert len(server.events) == 1
    settle(sensor, REPEAT_S + 20)
    assert len(server.events) == 2
    assert "no verdict came of what was announced" in " ".join(said)
    settle(sensor, 2 * REPEAT_S + 40)
    assert len(server.events) == 2
    settle(sensor, 3 * REPEAT_S + 40)
    assert len(server.events) == 3
    came_to_a_verdict(run)
    settle(sensor, 20 * REPEAT_S)
    assert len(server.events) == 3


def test_nothing_is_announced_again_while_a_run_is_under_way(run: Run, server: Server):
    sensor = sensor_of(run, server)
    settle(sensor)
    with one_at_a_time(run):
        settle(sensor, 5 * REPEAT_S)
    assert len(server.events) == 1
