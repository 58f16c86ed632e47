"""`headstart up` with its real server, runner and sensor: what is copied into the source becomes a model, once."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import expect

from flows.deployments import deployments
from flows.run_state import GIVEN_UP, INTERRUPTED, MAX_CRASHES, RESUMED
from flows.server import configured_server
from tasks.errors import UsageError
from tasks.storage.repository import versions
from tasks.workspace import Workspace
from tests import photos
from tests.arrivals import digests, embedded, last_snapshot, overlaps, write_slowly
from tests.browser import chromium
from tests.runs import make_run, process_of
from tests.up import Up, running

ROOT = Path(__file__).parents[2]
QUIET_S = 1.0
FIRST, DRIBBLED = 100, 40  # images
FLAGS = [
    *("--name", "tints", "--backbone", "embedded", "--quiet", QUIET_S, "--max-wait", 600),
    *("--set", "backbone.image_size_px=64", "--set", "split.test_share=0.25", "--set", "finetune.epochs=4"),
    *("--set", "evaluate.cross_fit_s=0"),
]


class Place:
    """The folder of photographs, the workspace, and what was copied so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "photos"
        self.workspace = Workspace(str(folder / "w"))
        self.flags = [*FLAGS, "--set", f"evaluate.gates={folder / 'gates.toml'}"]
        self._next = 0

    def copy(self, count: int, slowly: bool = True) -> None:
        """`count` more photographs, of three classes in turn; each is there in part only for a moment."""
        for number in range(self._next, self._next + count):
            hue = number % 3
            path = self.source / ("red", "green", "blue")[hue] / f"{number:04d}.jpg"
            pause = (lambda: time.sleep(0.05)) if slowly else (lambda: None)
            write_slowly(path, photos.encoded(photos.photo(number, hue=hue)), pause)
        self._next += count


@dataclass
class Cut:
    """What was left of an `up` that was stopped while its first run ran."""

    events: list[dict[str, Any]]
    run: dict[str, Any]
    status: int
    alive: list[psutil.Process]
    decided: bool


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("up"))
    place.copy(FIRST, slowly=False)
    # Colours are easily told apart: the head claims less than comes true, which is not what is tested here.
    shipped = (ROOT / "expectations/gates.toml").read_text()
    (place.folder / "gates.toml").write_text(shipped.replace("max_error = 0.05", "max_error = 0.5"))
    return place


@pytest.fixture(scope="module")
def cut(place: Place) -> Cut:
    """Photographs arrive in dribbles, some while the server starts; a run starts, and Ctrl-C comes in its midst."""
    with running(place.folder, place.source, *place.flags, "--min-new", FIRST + DRIBBLED) as up:
        for _ in range(DRIBBLED // 8):
            place.copy(8)
            time.sleep(random.uniform(0, 0.8 * QUIET_S))
        run = up.wait_for(lambda: next(iter(up.runs()), None))
        events = up.wait_for(up.events)  # stored some seconds after it was answered
        family = psutil.Process(up.process.pid).children(recursive=True)
        status = up.stop()
    alive = [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    return Cut(events, run, status, alive, decided=bool(place.workspace.names("listings")))


@pytest.fixture(scope="module")
def up(cut: Cut, place: Place) -> Iterator[Up]:
    """The next start, without a minimum of images."""
    with running(place.folder, place.source, *place.flags) as up:
        yield up


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_photographs_that_arrive_in_dribbles_make_one_event_that_says_what_came(cut: Cut, place: Place):
    [event] = cut.events
    assert event["payload"]["new"] == FIRST + DRIBBLED
    assert sum(event["payload"]["classes"].values()) == FIRST + DRIBBLED
    assert cut.run["parameters"]["source"] == event["payload"]["source"] == str(place.source)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stop_ends_all_that_it_started(cut: Cut):
    assert (cut.status, cut.alive, cut.decided) == (0, [], False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_next_start_goes_on_with_that_run_and_the_one_retrain_is_promoted(up: Up, cut: Cut, place: Place):
    [run] = up.wait_for(lambda: [run for run in up.runs() if run["end_time"]])
    assert run["id"] == cut.run["id"]
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert versions(place.workspace, "tints") == [1], run["state"]["message"]
    assert INTERRUPTED in [state["name"] for state in states(up, run)]
    assert last_snapshot(place.workspace, "tints") == digests(place.source)
    time.sleep(QUIET_S + 3)  # nothing more comes of it
    assert (len(up.events()), len(up.unfinished()), len(up.runs())) == (1, 0, 1)
    assert "a run starts, in the process that waited for it" in up.log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_run_form_shows_descriptions_choices_bounds_and_defaults(up: Up):
    registered = {each["name"]: each for each in up.ask("/deployments/filter")}
    assert set(registered) == {"tints-on-labels", "tints-nightly", "tints-manual", "tints-next"}
    with chromium() as browser:
        page = browser.new_page()
        page.goto(f"{up.url}/deployments/deployment/{registered['tints-manual']['id']}/run")
        for text in (
            "Peak learning rate of AdamW",
            "The model's name",
            "Side of the square that images are resized to",
        ):
            expect(page.get_by_text(text).first).to_be_visible(timeout=60_000)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_batches_at_random_and_a_killed_process_lose_nothing_and_embed_nothing_twice(up: Up, place: Place):
    rng = random.Random(7)
    for _ in range(4):
        place.copy(rng.randint(1, 6))
        time.sleep(rng.uniform(0, 2 * QUIET_S))
    up.wait_for(lambda: process_of(up.process.pid, "tints")).kill()
    # A run that was killed in its last moments has done its work, and is started again all the same.
    up.wait_for(lambda: {run["state_type"] for run in up.runs()} == {"COMPLETED"})
    up.wait_for(lambda: last_snapshot(place.workspace, "tints") == digests(place.source) and not up.unfinished())
    rows = embedded(place.workspace, "tints")
    assert len(rows) == len(set(rows))
    assert {sha256 for sha256, _ in rows} == digests(place.source)
    runs = up.runs()
    [died] = [run for run in runs if RESUMED in [state["message"] for state in states(up, run)]]
    assert overlaps([run for run in runs if run != died]) == []  # another may run before that one is started again
    up.wait_for(lambda: len(up.events()) == len(runs))  # an event is stored some seconds after it was answered
    assert {run["state_type"] for run in runs} == {"COMPLETED"}
    assert "a run's process crashed, and the run resumes: Process exited" in up.log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_died_too_often_fails_and_says_so(up: Up):
    [manual] = [each for each in up.ask("/deployments/filter") if each["name"] == "tints-manual"]
    # In so long that nobody starts it: what counts is its history.
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    waiting = {"type": "SCHEDULED", "name": "AwaitingRetry", "state_details": {"scheduled_time": later}}
    created = up.ask(f"/deployments/{manual['id']}/create_flow_run", state=waiting)
    path = f"/flow_runs/{created['id']}"
    crashed = {"type": "CRASHED", "message": "out of memory"}
    for state in [crashed, waiting] * (MAX_CRASHES - 1) + [crashed]:
        up.ask(f"{path}/set_state", state=state, force=True)
    up.wait_for(lambda: up.get(path)["state_type"] == "FAILED")
    assert up.get(path)["state"]["message"] == GIVEN_UP


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_is_cancelled_ends_and_is_not_started_again(up: Up):
    [manual] = [each for each in up.ask("/deployments/filter") if each["name"] == "tints-manual"]
    created = up.ask(f"/deployments/{manual['id']}/create_flow_run", parameters={"force": True})
    path = f"/flow_runs/{created['id']}"
    process = up.wait_for(lambda: process_of(up.process.pid, "tints"))
    up.ask(f"{path}/set_state", state={"type": "CANCELLING"})
    up.wait_for(lambda: up.get(path)["state_type"] == "CANCELLED")
    up.wait_for(lambda: not process.is_running())
    assert [state["type"] for state in states(up, created)][-2:] == ["CANCELLING", "CANCELLED"]


def states(up: Up, run: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that a run has gone through, oldest first."""
    return up.get(f"/flow_run_states/?flow_run_id={run['id']}")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def headstart(*args: object, home: Path) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
    command = [sys.executable, "-m", "flows.cli", *map(str, args), "--workspace", str(home / "w")]
    environ |= {"PREFECT_HOME": str(home), "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ)


def test_a_mistake_ends_at_once_and_says_what_to_do(tmp_path: Path, taken_port: int):
    (tmp_path / "photos").mkdir()
    for args, says in {
        ("up", "/absent"): "'/absent' does not exist",
        ("up", "tfds:digits"): "use headstart retrain tfds:digits",
        ("up", tmp_path / "photos", "--backbone", "embedded", "--port", taken_port): "give another one with --port",
        ("watch", tmp_path / "photos"): "set PREFECT_API_URL",
    }.items():
        done = headstart(*args, home=tmp_path)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert says in done.stderr
        assert "Traceback" not in done.stderr


def test_a_nightly_that_is_no_cron_line_says_so():
    with pytest.raises(UsageError, match="a cron line, such as '0 3 \\* \\* \\*'; found 'at three'"):
        list(deployments(make_run("/workspace", "/photos"), "at three"))


def test_the_server_of_a_profile_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_PROFILE", raising=False)
    assert configured_server() is None
    profiles = 'active = "team"\n[profiles.team]\nPREFECT_API_URL = "http://prefect/api"\n[profiles.mine]\n'
    (tmp_path / "profiles.toml").write_text(profiles)
    assert configured_server() == "http://prefect/api"
    monkeypatch.setenv("PREFECT_PROFILE", "mine")
    assert configured_server() is None
    monkeypatch.setenv("PREFECT_API_URL", "http://other/api")
    assert configured_server() == "http://other/api"
