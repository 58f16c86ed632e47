"""What the model meets in production: an event where too many of the images that `serve --collect` kept are unfamiliar.

The deployment that chooses what to label next has a trigger on it, so those images are laid out for people.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events import Event, Resource
from scipy.stats import binomtest

from tasks.networks.outputs import THRESHOLD
from tasks.records import Run
from tasks.storage.repository import champion, read_manifest

log = logging.getLogger(__name__)

EVENT = "headstart.images.unfamiliar"
LOOK_S = 60.0
MIN_IMAGES = 50  # answered by the champion since the last event
TIMES = 2.0  # as many unfamiliar images as expected, at least
SIGNIFICANCE = 0.001  # of a one-sided binomial test: at one look a minute of 50 new images a day, once in three years


@dataclass(frozen=True)
class _Answer:
    when: str  # ISO 8601, UTC
    version: int
    familiar: bool


class Inbox:
    """Looks through the answers of the collected images, each once."""

    def __init__(
        self,
        run: Run,
        report: Callable[[str], None],
        client: Callable[[], AbstractContextManager[SyncPrefectClient]] = lambda: get_client(sync_client=True),
    ) -> None:
        self._run, self._report, self._client = run, report, client
        self._answers: dict[str, _Answer | None] = {}  # by file; None of one that says nothing
        self._next_look = 0.0

    def look(self, now: float) -> None:
        """Sends the event where it is due; looks once a minute, whatever `now` (monotonic seconds) says between.

        Raises:
            Exception: the workspace or the server is unavailable; the next look tries again.
        """
        if now < self._next_look:
            return
        self._next_look = now + LOOK_S
        version = champion(self._run.workspace, self._run.name)
        said = read_manifest(self._run.workspace, self._run.name, version).get("familiarity") if version else None
        if not said:
            return
        self._read_new()
        since = self._announced()
        answers = [each for each in self._answers.values() if each and each.version == version and each.when > since]
        unfamiliar, expected = sum(not each.familiar for each in answers), 1 - said["familiar_share"]
        if is_unusual(unfamiliar, len(answers), expected):
            self._send(unfamiliar, len(answers), expected, max(each.when for each in answers))

    def _read_new(self) -> None:
        files = {file.path for file in self._run.workspace.files(f"inbox/{self._run.name}.answers")}
        self._answers = {path: answer for path, answer in self._answers.items() if path in files}
        for path in files - self._answers.keys():
            self._answers[path] = self._read(path)

    def _read(self, path: str) -> _Answer | None:
        try:
            said = self._run.workspace.read_json(path)
            if said.get("familiarity") is None:
                return None
            return _Answer(str(said["when"]), int(said["version"]), float(said["familiarity"]) >= THRESHOLD)
        except (ValueError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as exc:
            log.warning("%s can't be read as an answer: %s", self._run.workspace.display(path), exc)
            return None

    def _announced(self) -> str:
        """The time of the newest answer that an event has told of."""
        path = self._note
        return self._run.workspace.read_json(path)["until"] if self._run.workspace.exists(path) else ""

    @property
    def _note(self) -> str:
        return f"watch/{self._run.name}.inbox.json"

    def _send(self, unfamiliar: int, images: int, expected: float, until: str) -> None:
        run = self._run
        payload: dict[str, Any] = {
            "name": run.name,
            "workspace": run.workspace.url,
            "pool": run.workspace.display(f"inbox/{run.name}"),
            "images": images,
            "unfamiliar": unfamiliar,
        }
        event = Event(event=EVENT, resource=model_resource(run.name), payload=payload)
        with self._client() as client:
            client.request("POST", "/events", json=[event.model_dump(mode="json")])
        run.workspace.write_json(self._note, {"until": until})
        self._report(
            f"{unfamiliar} of the last {images} collected images are unlike anything that {run.name} was trained on "
            f"({expected:.0%} are expected): announced"
        )


def model_resource(name: str) -> Resource:
    """What the events of a model are about, as a trigger matches it."""
    return Resource({"prefect.resource.id": f"headstart.model.{name}", "prefect.resource.name": name})


def is_unusual(unfamiliar: int, images: int, expected: float) -> bool:
    """Whether so many unfamiliar images are more than chance brings, and enough to be worth a person's time.

    Args:
        expected: the share of images of the known classes that are unfamiliar.
    """
    if images < MIN_IMAGES or unfamiliar < TIMES * expected * images:
        return False
    return float(binomtest(unfamiliar, images, expected, alternative="greater").pvalue) < SIGNIFICANCE
