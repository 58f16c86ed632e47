"""`headstart watch`: the sensor. New labelled images that have settled become one event on Prefect's server.

The event is a hint, which triggers a run of a deployment. The truth is the difference between what the source lists and
what the model's last finished run listed: a sensor that was down finds it at its next start, and images that arrive
during a run are announced after it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
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
from prefect.events import Event
from prefect.settings import PREFECT_UI_URL

from flows.debounce import Announced, Debounce, DebounceSettings, marker_path, marker_signature, pulses
from flows.inbox import Inbox, model_resource
from flows.slot import is_under_way
from tasks.errors import HeadstartError, SourceError
from tasks.ingest.listing import Arrivals, arrivals, last_listing, listing_table
from tasks.ingest.sources import list_source
from tasks.modality.kinds import kind_of
from tasks.records import Run
from tasks.runs import finished_runs
from tasks.storage.corrections import read_corrections

EVENT = "headstart.labels.arrived"
FLOW = "retrain"
# A trigger starts a run within seconds; after this time a missing run is worth a warning.
ANSWER_S = 30
# Prefect's server stores events a few seconds after it received them.
STORE_S = 10
# How long a run may stay pending before it counts as lost.
PENDING = timedelta(minutes=10)
# What was announced and got no verdict (the run failed, or was lost) is announced again after this time, then after
# twice as long each time: a fault that lasts is not answered by a run every few minutes.
REPEAT_S = 600.0
MAX_REPEAT_S = 6 * 3600.0
MAX_BACKOFF_S = 60.0
# How often the clock is checked, so that the settle time ends on time; the source is listed less often.
BEAT_S = 0.25

Report = Callable[[str], None]


def watch(
    run: Run, settings: DebounceSettings, stop: threading.Event, report: Report, alive: Path | None = None
) -> None:
    """Lists the run's source until `stop`, and announces what arrived.

    Faults of the source, the workspace and the server are reported once and tried again, with back-off.

    Args:
        alive: a file whose time is renewed several times a second, unless the last look failed or one lasts.
    """
    sensor, inbox = Sensor(run, settings, report), Inbox(run, report)
    faults, next_look = 0, 0.0
    has_looked = False
    workspace = run.workspace.path("") if run.workspace.is_local else ""
    for touched in pulses(run.source, min(BEAT_S, settings.poll_s), stop, workspace):
        now = time.monotonic()
        if alive and has_looked and not faults:
            alive.touch()
        if touched:
            next_look = sensor.debounce.touch(now)
        if now < next_look:
            continue
        try:
            next_look = sensor.look(now)
            inbox.look(now)
        except Exception as exc:  # noqa: BLE001 - whatever is unavailable may come back, and a sensor waits for it
            faults += 1
            next_look = now + min(MAX_BACKOFF_S, 2.0 ** min(faults, 10))
            if faults == 1:
                report(f"can't look for new labels, and will try again: {_message(exc)}")
            continue
        if faults:
            report("looking for new labels again")
        faults, has_looked = 0, True


class Sensor:
    """Compares the source with the last listing, and announces the difference once."""

    def __init__(
        self,
        run: Run,
        settings: DebounceSettings,
        report: Report,
        client: Callable[[], AbstractContextManager[SyncPrefectClient]] = lambda: get_client(sync_client=True),
    ) -> None:
        self.debounce = Debounce(settings)
        self._run = run
        self._report = report
        self._client = client
        self._marker = marker_path(run.source, settings.marker) if settings.marker else None
        self._announced = self._last_announced()
        self._sent_at: float | None = None
        self._answer_until: float | None = None  # until then, the run of the last event may still appear
        self._repeat_s = REPEAT_S
        self._repeat_at: float | None = None  # None until the first look, and where nothing is open
        self._empty = False
        self._reported = (self._last_run() or {}).get("run_id")

    def _last_announced(self) -> Announced:
        """What an earlier sensor announced of this source in this workspace; either may have been moved since."""
        last = Announced.read(self._run.workspace, self._run.name)
        places = {"source": self._run.source, "workspace": self._run.workspace.url}
        if last.event and not places.items() <= last.event["payload"].items():
            return Announced(marker=last.marker)
        # Whether the server has the last event is checked again: it may be another server, or have lost it.
        return replace(last, confirmed=False)

    def look(self, now: float) -> float:
        """Lists the source once, at `now` (monotonic seconds); returns when to do it again."""
        started = time.monotonic()
        marker = (
            marker_signature(self._marker) if self._marker else None
        )  # before the listing, which is then as new or newer
        now_listed = listing_table(self._entries(), read_corrections(self._run.workspace))
        found = arrivals(now_listed, last_listing(self._run.workspace, self._run.name))
        cost_s = time.monotonic() - started
        delivered = marker is not None and marker != self._announced.marker
        ready = self.debounce.ready(found, now, delivered)
        if not found.changes:
            self._settle(marker)
        elif self._announced.event and not self._announced.confirmed:
            self._send(self._announced.event, now)
        elif ready and found.listing != self._announced.listing and not self._busy(now):
            self._repeat_s = REPEAT_S
            self._announce(found, marker, now)
        elif found.listing == self._announced.listing and self._is_overdue(now):
            self._report(f"no verdict came of what was announced; the run's page says why: {PREFECT_UI_URL.value()}")
            self._announce(found, marker, now)
        if self._answer_until is not None:
            self._busy(now)
        return self.debounce.next_look(now, cost_s)

    def _is_overdue(self, now: float) -> bool:
        """Whether no run answered the last announcement for so long that it is made again."""
        if self._repeat_at is None:
            self._repeat_at = now + self._repeat_s
        if now < self._repeat_at or self._busy(now):
            return False
        self._repeat_s = min(2 * self._repeat_s, MAX_REPEAT_S)
        return True

    def _entries(self):
        """The source's entries; none where it is empty, as a folder is before its first images."""
        try:
            entries = list_source(self._run).entries
        except SourceError as exc:
            if exc.__cause__ is not None:
                raise
            if not self._empty:
                self._report(f"nothing to train on yet: {exc}")
            self._empty = True
            return ()
        self._empty = False
        return entries

    def _settle(self, marker: str | None) -> None:
        """The last run has used everything: nothing that was announced is open, and this marker belongs to it."""
        answered = Announced(marker=marker)
        if self._announced.listing:
            self._report_verdict()
        if self._announced != answered:
            self._announced = answered.write(self._run.workspace, self._run.name)
        self._answer_until = self._repeat_at = None

    def _report_verdict(self) -> None:
        """Reports how the last run ended, once."""
        last = self._last_run()
        if last and last["run_id"] != self._reported:
            reasons = "; ".join(last["reasons"])
            self._report(f"{self._run.name}: {last['verdict']} ({reasons}); report: {last['report']}")
            self._reported = last["run_id"]

    def _last_run(self) -> dict[str, Any] | None:
        return next(finished_runs(self._run.workspace, self._run.name), None)

    def _announce(self, found: Arrivals, marker: str | None, now: float) -> None:
        self._report_verdict()
        event = self._event(found).model_dump(mode="json")
        self._announced = Announced(found.listing, event, False, marker).write(self._run.workspace, self._run.name)
        self._sent_at = None
        self._send(event, now)
        self._answer_until = now + ANSWER_S
        self._repeat_at = now + self._repeat_s
        self._report(f"{_what(found, kind_of(self._run.config).items)}: announced")

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
            "corrected": found.corrected,
            "listing": found.listing,
        }
        return Event(event=EVENT, resource=model_resource(run.name), payload=payload)

    def _send(self, event: dict[str, Any], now: float) -> None:
        """Sends the event until the server has stored it; the server recognises a repeated event by its id.

        Prefect's own `emit_event` loses an event where the server is unavailable or stops before storing it.
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
        """Whether a run is active or about to start: it will use what is there, so nothing is announced."""
        with self._client() as client:
            if is_under_way(self._run, client) or any(map(self._is_waiting, _next_runs(client))):
                self._answer_until = None
                return True
        if self._answer_until is None:
            return False
        if now < self._answer_until:
            return True
        self._answer_until = None
        self._report(
            f"the event has started no run for {ANSWER_S} s: is a deployment with a trigger on {EVENT} registered? "
            "(deploy/prefect.yaml has one)"
        )
        return False

    def _is_waiting(self, flow_run: FlowRun) -> bool:
        """Whether a scheduled or pending run is of this model, and due."""
        given = flow_run.parameters
        if (given.get("name", "default"), given.get("workspace")) != (self._run.name, self._run.workspace.url):
            return False
        now = datetime.now(UTC)
        if flow_run.state and flow_run.state.is_pending():
            return now - flow_run.state.timestamp < PENDING
        due = flow_run.next_scheduled_start_time
        # A run that waits for another one to end is scheduled anew every 30 s.
        return due is None or due < now + timedelta(minutes=1)


def _what(found: Arrivals, items: str) -> str:
    """What is announced, in words."""
    classes = ", ".join(f"{label} {count}" for label, count in found.classes.items())
    parts = [f"{found.new} new of {found.total} labelled {items} ({classes})"] if found.new else []
    if found.corrected:
        parts.append(f"{found.corrected} {'correction' if found.corrected == 1 else 'corrections'} of labels")
    return " and ".join(parts)


def _next_runs(client: SyncPrefectClient) -> list[FlowRun]:
    states = FlowRunFilterStateType(any_=[StateType.SCHEDULED, StateType.PENDING])
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=states)),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=200,
    )


def _message(exc: BaseException) -> str:
    return str(exc) if isinstance(exc, HeadstartError) else f"{type(exc).__name__}: {exc}"
