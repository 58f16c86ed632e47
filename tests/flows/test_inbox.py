"""Collected images that are unlike the training images become one event; those that chance brings become none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.inbox import EVENT, LOOK_S, MIN_IMAGES, Inbox, is_unusual
from tasks.records import Run
from tests.deploy.serving.models import publish
from tests.runs import make_run

FAMILIARITY = {"threshold": 0.5, "familiar_share": 0.95}


class Server:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.away = False

    @contextmanager
    def client(self) -> Iterator[Any]:
        if self.away:
            raise ConnectionError("nobody answers")
        yield self

    def request(self, method: str, path: str, json: Any) -> None:
        assert (method, path) == ("POST", "/events")
        self.events += json


@pytest.fixture
def run(tmp_path: Path) -> Run:
    publish(tmp_path, 1, familiarity=FAMILIARITY)
    return replace(make_run(tmp_path, "photos"), name="colours")


def collect(run: Run, start: int, familiar: int, unfamiliar: int, version: int = 1) -> None:
    """Answers as `serve --collect` keeps them, one a second."""
    for number in range(familiar + unfamiliar):
        answer = {
            "when": f"2026-01-02T03:{start + number // 60:02d}:{number % 60:02d}+00:00",
            "version": version,
            "familiarity": 0.9 if number < familiar else 0.1,
        }
        run.workspace.write_json(f"inbox/colours.answers/{start:02d}{number:062x}.json", answer)


def look(run: Run, server: Server, *, inbox: Inbox | None = None, at: float = 0.0) -> list[str]:
    said: list[str] = []
    (inbox or Inbox(run, said.append, server.client)).look(at)
    return said


def test_many_unfamiliar_images_are_one_event_that_names_the_pool(run: Run):
    server = Server()
    collect(run, 0, familiar=40, unfamiliar=20)
    [said] = look(run, server)
    assert said.startswith("20 of the last 60 collected images are unlike anything that colours was trained on (5%")
    [event] = server.events
    assert event["event"] == EVENT
    assert event["resource"]["prefect.resource.id"] == "headstart.model.colours"
    assert event["payload"]["pool"] == run.workspace.display("inbox/colours")
    assert (event["payload"]["images"], event["payload"]["unfamiliar"]) == (60, 20)
    assert look(run, server) == []  # also by a sensor that was started anew
    collect(run, 10, familiar=30, unfamiliar=25)
    assert len(look(run, server)) == 1
    assert len(server.events) == 2


def test_answers_of_an_earlier_version_and_of_a_damaged_file_say_nothing(run: Run):
    server = Server()
    collect(run, 0, familiar=0, unfamiliar=60, version=7)
    run.workspace.write_bytes("inbox/colours.answers/x.json", b"{")
    run.workspace.write_json("inbox/colours.answers/y.json", [])
    assert look(run, server) == []


def test_a_model_that_does_not_say_what_is_familiar_and_no_model_at_all_say_nothing(tmp_path: Path):
    run = replace(make_run(tmp_path, "photos"), name="colours")
    assert look(run, Server()) == []
    publish(tmp_path, 1)
    collect(run, 0, familiar=0, unfamiliar=60)
    assert look(run, Server()) == []


def test_it_looks_once_a_minute_and_again_where_the_server_was_away(run: Run):
    server, said = Server(), []
    inbox = Inbox(run, said.append, server.client)
    collect(run, 0, familiar=0, unfamiliar=60)
    server.away = True
    with pytest.raises(ConnectionError):
        inbox.look(0)
    server.away = False
    inbox.look(LOOK_S - 1)
    assert said == []
    inbox.look(LOOK_S)
    assert len(said) == len(server.events) == 1


@pytest.mark.parametrize(
    ("unfamiliar", "images", "unusual"),
    [
        (MIN_IMAGES - 1, MIN_IMAGES - 1, False),  # too few to say
        (5, 100, False),  # as expected
        (9, 100, False),  # chance
        (15, 100, True),
        (130, 2000, False),  # more than chance, and not worth a person's time
        (250, 2000, True),
    ],
)
def test_what_is_unusual(unfamiliar: int, images: int, unusual: bool):
    assert is_unusual(unfamiliar, images, 0.05) == unusual
