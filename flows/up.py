"""`headstart up`: everything that keeps a model fresh, on one machine, until it is stopped.

A Prefect server with its UI (unless one is configured), the deployments, a runner that starts each of their runs in a
process that waited for it (`flows.standby`), and the sensor. Runs that a stop or a crash interrupted are scheduled
again, so the next start resumes them. A run whose process crashed is started again from here, too: the runner, which is
part of this process, reports the crash, so no automation on the server is needed. (Prefect's `on_crashed` hook is not
enough for this: where the server is unavailable at that moment, the hook is lost, and with it the run.)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psutil
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.runner import Runner, _starter_engine
from prefect.states import AwaitingRetry, Failed, Scheduled

from flows.debounce import DebounceSettings
from flows.deployments import FLOWS, deployments
from flows.run_state import GIVEN_UP, INTERRUPTED, MAX_CRASHES, RESUMED, crashes
from flows.server import LocalServer
from flows.standby import Standby
from flows.watch import Report, watch
from tasks.errors import HeadstartError
from tasks.records import Run

Deployed = tuple[Flow[..., Any], dict[str, Any]]  # a flow, and what its `to_deployment` takes

# How often the runner polls for due runs; Prefect's default of 10 s would be the longest part of a start.
POLL_S = 1
STOP_S = 10
# A configured server may have automations that start a crashed run again at once: they go first.
CRASHED_FOR = timedelta(seconds=5)
FORGOTTEN = timedelta(days=1)  # runs that crashed earlier are left alone
LOOK_S = 5


def keep_fresh(
    run: Run,
    settings: DebounceSettings,
    cron: str,
    server: LocalServer | None,
    stop: threading.Event,
    report: Report,
    pool: str = "",
) -> None:
    """Registers the deployments, and runs and watches until `stop`.

    Args:
        server: the one that was started for this, or None where another is configured.
        pool: images without labels, to choose from what to label next; may be empty.

    Raises:
        UsageError: `cron` is no schedule.
        HeadstartError: the server, the runner, the sensor or the recovery ended by itself.
    """
    wanted = list(deployments(run, cron, pool))
    names = [each["name"] for _, each in wanted]
    halt = threading.Event()  # stops the runner, after the processes of its runs were stopped
    standby = Standby(run, report)
    standby.prepare()
    # The place that Prefect's own documentation of the starter names for another way to start a run's process.
    _starter_engine.run_process = standby.run_process  # type: ignore[reportPrivateImportUsage]
    parts = [
        _Part("runner", lambda: _serve(wanted, halt, report)),
        _Part("sensor", lambda: watch(run, settings, stop, report)),
        _Part("recovery", lambda: _recover(names, stop, report)),
    ]
    try:
        while not stop.wait(0.5):
            if server and server.ended:
                raise HeadstartError(f"Prefect's server ended; its log:\n{server.log()}")
            for part in parts:
                part.check()
    finally:
        standby.close()
        interrupted: set[UUID] = set()
        # The runs' processes go first, while their own child processes can still be found; then once more, for a run
        # that was picked up meanwhile.
        for last in (False, True):
            with _forgiving(report):
                interrupted |= _active(names)
            if last:
                stop.set()
                halt.set()
            _stop_runs(server)
        for part in parts:
            part.join(STOP_S)
        with _forgiving(report):
            _reschedule(interrupted)


@contextmanager
def _forgiving(report: Report) -> Iterator[None]:
    """Goes on where the server is unavailable: interrupted runs are found at the next start."""
    try:
        yield
    except Exception as exc:  # noqa: BLE001 - the rest of the stop comes next, whatever this was
        report(f"Prefect's server does not answer: {type(exc).__name__}: {exc}")


class _Part:
    """A thread that keeps the exception which ended it."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self._name, self._work = name, work
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises HeadstartError where the thread has ended."""
        if not self._thread.is_alive():
            raise HeadstartError(
                f"the {self._name} ended unexpectedly: {self._fault or 'without an error'}"
            ) from self._fault

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as exc:  # noqa: BLE001 - the main thread reports it
            self._fault = exc


def _serve(wanted: Sequence[Deployed], stop: threading.Event, report: Report) -> None:
    """Runs the deployments until `stop`, in a thread, since the runner would replace our signal handlers.

    A runner gives up when the server is unavailable for some polls; then another one takes its place.
    """
    while not stop.is_set():
        try:
            asyncio.run(_run_until(stop, wanted, report))
        except Exception as exc:  # noqa: BLE001 - whatever is unavailable may come back
            report(f"the runner stopped, and starts again in {STOP_S} s: {type(exc).__name__}: {exc}")
            stop.wait(STOP_S)


async def _run_until(stop: threading.Event, wanted: Sequence[Deployed], report: Report) -> None:
    runner = Runner(name="headstart", query_seconds=POLL_S, pause_on_shutdown=False)
    for flow, each in wanted:
        # Registered by its module, so that a run's process finds the flow from any folder.
        await runner.aadd_deployment(await flow.ato_deployment(**each))
    found = await asyncio.to_thread(_active, [each["name"] for _, each in wanted])  # nothing of ours runs yet
    await asyncio.to_thread(_reschedule, found)
    if found:
        report(f"{len(found)} interrupted {'run resumes' if len(found) == 1 else 'runs resume'}")
    running = asyncio.create_task(runner.start())
    while not stop.is_set() and not running.done():
        await asyncio.sleep(0.2)
    running.cancel()
    try:
        await running
    except asyncio.CancelledError:
        if not stop.is_set():
            raise


def _stop_runs(server: LocalServer | None) -> None:
    """Ends the processes of runs and their child processes; the server is stopped later."""
    spared = {server.pid} if server else set()
    children = [child for child in psutil.Process().children() if child.pid not in spared]
    family = [each for child in children for each in (child, *_descendants(child))]
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(family, timeout=STOP_S)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=STOP_S)


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _recover(names: list[str], stop: threading.Event, report: Report) -> None:
    """Until `stop`, starts crashed runs of these deployments again, or fails them where they crash too often."""
    reported = False
    while not stop.wait(LOOK_S):
        try:
            for crashed in _crashed(names):
                report(_start_again(crashed))
            reported = False
        except Exception as exc:  # noqa: BLE001 - an unavailable server comes back
            if not reported:
                report(f"can't look for crashed runs, and will try again: {type(exc).__name__}: {exc}")
            reported = True


def _start_again(crashed: FlowRun) -> str:
    """Schedules a crashed run again, or marks it as failed. Returns what to report."""
    why = crashed.state.message if crashed.state else None
    with get_client(sync_client=True) as client:
        if crashes(client.read_flow_run_states(crashed.id)) < MAX_CRASHES:
            client.set_flow_run_state(crashed.id, AwaitingRetry(message=RESUMED))
            return f"a run's process crashed, and the run resumes: {why}"
        client.set_flow_run_state(crashed.id, Failed(message=GIVEN_UP))
        return f"a run failed: {GIVEN_UP}"


def _crashed(names: list[str]) -> list[FlowRun]:
    """The runs of these deployments that crashed some seconds ago, and not over a day ago."""
    now = datetime.now(UTC)
    lately = {"after_": now - FORGOTTEN, "before_": now - CRASHED_FOR}
    return _runs(names, [StateType.CRASHED], FlowRunFilterEndTime.model_validate(lately))


def _active(names: list[str]) -> set[UUID]:
    """The runs of these deployments that are marked as running or pending."""
    return {flow_run.id for flow_run in _runs(names, [StateType.RUNNING, StateType.PENDING])}


def _runs(names: list[str], states: list[StateType], end_time: FlowRunFilterEndTime | None = None) -> list[FlowRun]:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow.name for flow in FLOWS.values()])),
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=names)),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)), end_time=end_time
            ),
        )


def _reschedule(interrupted: set[UUID]) -> None:
    """Schedules runs again whose processes were stopped, unless they had come to their end before.

    A run that failed meanwhile failed of the stop: Prefect answers a signal that comes while it creates a task run with
    a ValueError, and a process whose child was stopped first sees that child fail.
    """
    with get_client(sync_client=True) as client:
        for flow_run_id in interrupted:
            state = client.read_flow_run(flow_run_id).state
            if state is None or not (state.is_completed() or state.is_cancelled()):
                waiting = Scheduled(
                    name=INTERRUPTED, message="Interrupted by a stop; the run resumes at the next start."
                )
                client.set_flow_run_state(flow_run_id, waiting, force=True)
