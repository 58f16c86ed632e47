"""`headstart watch`: the sensor. New labelled images that have settled become one event on Prefect's server.

The event is a hint, and a deployment with a trigger answers it by a run. The truth is the difference between what the
source lists and what the model's last run with a verdict listed: a sensor that was down finds it when it comes back,
and what arrives during a run is announced when that run is over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events import Event, Resource
from prefect.settings import PREFECT_API_URL

from flows.debounce import Announced, Debounce, Patience, marker_path, marker_signature, pulses
from flows.slot import is_under_way
from tasks.errors import HeadstartError, SourceError, UsageError
from tasks.ingest.listing import Arrivals, arrivals, last_listing, listing_table
from tasks.ingest.sources import list_source
from tasks.records import Run
from tasks.runs import finished_runs

EVENT = "headstart.labels.arrived"
FLOW = "retrain"
# An event is answered within seconds; after this time it is worth a warning that nobody did.
ANSWER_S = 30
# Prefect's server stores events a few seconds after it took them.
STORE_S = 10
# So long may a run take from being picked up to its start, before it counts as lost.
PENDING = timedelta(minutes=10)
MAX_BACKOFF_S = 60.0
# How often the time is looked at, so that the quiet period ends when it ends; the source is looked at less often.
BEAT_S = 0.25

Tell = Callable[[str], None]


def watch(run: Run, patience: Patience, stop: threading.Event, tell: Tell) -> None:
    """Looks at the run's source until `stop`, and announces what arrived.

    Faults of the source, the workspace and the server are told once and tried again, with back-off.
    """
    sensor = Sensor(run, patience, tell)
    faults, next_look = 0, 0.0
    for touched in pulses(run.source, min(BEAT_S, patience.poll_s), stop):
        now = time.monotonic()
        if touched:
            next_look = sensor.debounce.touch(now)
        if now < next_look:
            continue
        try:
            next_look = sensor.look(now)
        except Exception as exc:  # noqa: BLE001 - whatever is away may come back, and a sensor waits for it
            faults += 1
            next_look = now + min(MAX_BACKOFF_S, 2.0 ** min(faults, 10))
            if faults == 1:
                tell(f"can't look for new labels, and try again: {_said(exc)}")
            continue
        if faults:
            tell("looking for new labels again")
        faults = 0


def check_server() -> str:
    """The address of the configured server. Raises UsageError where there is none: an event needs one that stays."""
    if not (address := PREFECT_API_URL.value()):
        raise UsageError(
            "no Prefect server is configured to take the event: set PREFECT_API_URL, such as "
            "http://127.0.0.1:4200/api, or use headstart up, which starts one"
        )
    return address


class Sensor:
    """Compares the source with the last listing, and announces the difference once."""

    def __init__(
        self,
        run: Run,
        patience: Patience,
        tell: Tell,
        client: Callable[[], AbstractContextManager[SyncPrefectClient]] = lambda: get_client(sync_client=True),
    ) -> None:
        self.debounce = Debounce(patience)
        self._run = run
        self._tell = tell
        self._client = client
        self._marker = marker_path(run.source, patience.marker) if patience.marker else None
        # Whether the server has the last event is asked anew: it may be another server, or have lost it.
        self._announced = replace(Announced.read(run.workspace, run.name), confirmed=False)
        self._sent_at: float | None = None
        self._answer_until: float | None = None  # the last event's run has not been seen yet
        self._empty = False
        self._told = (self._last_run() or {}).get("run_id")

    def look(self, now: float) -> float:
        """One look at the source, at `now` by a steady clock, in seconds; returns when to look again."""
        started = time.monotonic()
        marker = (
            marker_signature(self._marker) if self._marker else None
        )  # before the listing: that is as new, or newer
        found = arrivals(listing_table(self._entries()), last_listing(self._run.workspace, self._run.name))
        cost_s = time.monotonic() - started
        delivered = marker is not None and marker != self._announced.marker
        ready = self.debounce.ready(found, now, delivered)
        if not found.new:
            self._settle(marker)
        elif self._announced.event and not self._announced.confirmed:
            self._send(self._announced.event, now)
        elif ready and found.listing != self._announced.listing and not self._busy(now):
            self._announce(found, marker, now)
        if self._answer_until is not None:
            self._busy(now)
        return self.debounce.next_look(now, cost_s)

    def _entries(self):
        """What the source lists; nothing where it is empty, as a folder is before its first images."""
        try:
            entries = list_source(self._run).entries
        except SourceError as exc:
            if exc.__cause__ is not None:
                raise
            if not self._empty:
                self._tell(f"nothing to train on yet: {exc}")
            self._empty = True
            return ()
        self._empty = False
        return entries

    def _settle(self, marker: str | None) -> None:
        """The last run has seen all: what was announced is answered, and this marker stands for it."""
        answered = Announced(marker=marker)
        if self._announced.listing:
            self._tell_verdict()
        if self._announced != answered:
            self._announced = answered.write(self._run.workspace, self._run.name)
        self._answer_until = None

    def _tell_verdict(self) -> None:
        """How the last run ended, if that was not told before."""
        last = self._last_run()
        if last and last["run_id"] != self._told:
            reasons = "; ".join(last["reasons"])
            self._tell(f"{self._run.name}: {last['verdict']} ({reasons}); report: {last['report']}")
            self._told = last["run_id"]

    def _last_run(self) -> dict[str, Any] | None:
        return next(finished_runs(self._run.workspace, self._run.name), None)

    def _announce(self, found: Arrivals, marker: str | None, now: float) -> None:
        self._tell_verdict()
        event = self._event(found).model_dump(mode="json")
        self._announced = Announced(found.listing, event, False, marker).write(self._run.workspace, self._run.name)
        self._sent_at = None
        self._send(event, now)
        self._answer_until = now + ANSWER_S
        classes = ", ".join(f"{label} {count}" for label, count in found.classes.items())
        self._tell(f"{found.new} new of {found.total} labelled images ({classes}): announced")

    def _event(self, found: Arrivals) -> Event:
        run = self._run
        payload = {
            "source": run.source,
            "name": run.name,
            "workspace": run.workspace.url,
            "new": found.new,
            "removed": found.removed,
            "total": found.total,
            "classes": found.classes,
            "listing": found.listing,
        }
        resource = Resource({"prefect.resource.id": resource_id(run.name), "prefect.resource.name": run.name})
        return Event(event=EVENT, resource=resource, payload=payload)

    def _send(self, event: dict[str, Any], now: float) -> None:
        """Sends the event until the server has stored it; it takes one that it has met for the same, by its id.

        Prefect's own `emit_event` loses it where no server answers, and so does a server that stops before that.
        """
        with self._client() as client:
            stored = client.request(
                "POST", "/events/filter", json={"filter": {"id": {"id": [event["id"]]}}, "limit": 1}
            )
            if stored.json()["events"]:
                self._announced = replace(self._announced, confirmed=True).write(self._run.workspace, self._run.name)
            elif self._sent_at is None or now - self._sent_at >= STORE_S:
                client.request("POST", "/events", json=[event])
                self._sent_at = now

    def _busy(self, now: float) -> bool:
        """Whether a run is under way, or about to start: that one will read what is there, so nothing is announced."""
        with self._client() as client:
            if is_under_way(self._run, client) or any(map(self._is_waiting, _next_runs(client))):
                self._answer_until = None
                return True
        if self._answer_until is None:
            return False
        if now < self._answer_until:
            return True
        self._answer_until = None
        self._tell(
            f"no run has answered the event for {ANSWER_S} s: is a deployment with a trigger on {EVENT} registered? "
            "(deploy/prefect.yaml has one)"
        )
        return False

    def _is_waiting(self, flow_run: FlowRun) -> bool:
        """Whether a run that is scheduled or picked up is of this model, and due."""
        given = flow_run.parameters
        if (given.get("name", "default"), given.get("workspace")) != (self._run.name, self._run.workspace.url):
            return False
        now = datetime.now(UTC)
        if flow_run.state and flow_run.state.is_pending():
            return now - flow_run.state.timestamp < PENDING
        due = flow_run.next_scheduled_start_time
        # One that waits for another to end is looked at every 30 s, and is due then.
        return due is None or due < now + timedelta(minutes=1)


def resource_id(name: str) -> str:
    """What the event is about, as a trigger matches it."""
    return f"headstart.model.{name}"


def _next_runs(client: SyncPrefectClient) -> list[FlowRun]:
    states = FlowRunFilterStateType(any_=[StateType.SCHEDULED, StateType.PENDING])
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=states)),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=200,
    )


def _said(exc: BaseException) -> str:
    return str(exc) if isinstance(exc, HeadstartError) else f"{type(exc).__name__}: {exc}"


def deployment_parameters(run: Run) -> dict[str, Any]:
    """What a run of this model is started with."""
    return {
        "source": run.source,
        "name": run.name,
        "workspace": run.workspace.url,
        "config": run.config.model_dump(mode="json", by_alias=True),
    }
