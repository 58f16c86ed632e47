"""`headstart up`: everything that keeps a model fresh, on one machine, until it is told to stop.

A Prefect server with its UI (unless one is configured), the deployments, a runner that starts their runs as processes,
and the sensor. What a stop or a crash cut is put back on the schedule, so that starting again goes on where it was.
A run whose process died is started again from here, too: the runner, which is in this process, reports the crash, and
no automation of the server's is needed.
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
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, FlowRun, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import DeploymentEventTrigger
from prefect.runner import Runner
from prefect.schedules import Cron
from prefect.states import AwaitingRetry, Failed, Scheduled
from prefect.types.entrypoint import EntrypointType

from flows.debounce import Patience
from flows.retrain import retrain
from flows.run_state import CUT, DIED, GIVEN_UP, MAX_DEATHS, deaths
from flows.server import LocalServer
from flows.watch import EVENT, Tell, deployment_parameters, resource_id, watch
from tasks.errors import HeadstartError, UsageError
from tasks.records import Run

NIGHTLY = "0 3 * * *"
# How often the runner asks for runs that are due; Prefect's own 10 s would be the longest part of a start.
POLL_S = 1
STOP_S = 10
# A configured server may have automations that start a crashed run again at once: they come first.
CRASHED_FOR = timedelta(seconds=5)
FORGOTTEN = timedelta(days=1)  # a run that crashed before is not dug up
LOOK_S = 5


def keep_fresh(
    run: Run, patience: Patience, cron: str, server: LocalServer | None, stop: threading.Event, tell: Tell
) -> None:
    """Registers the deployments, and runs and watches until `stop`.

    Args:
        server: the one that was started for this, or None where another is configured.

    Raises:
        UsageError: `cron` is no schedule.
        HeadstartError: the server, the runner, the sensor or the recovery ended by itself.
    """
    wanted = list(deployments(run, cron))
    names = [each["name"] for each in wanted]
    halt = threading.Event()  # the runner's own: it is to go on until its runs' processes are stopped
    parts = [
        _Part("runner", lambda: _serve(wanted, halt, tell)),
        _Part("sensor", lambda: watch(run, patience, stop, tell)),
        _Part("recovery", lambda: _recover(names, stop, tell)),
    ]
    try:
        while not stop.wait(0.5):
            if server and server.ended:
                raise HeadstartError(f"Prefect's server ended; it said:\n{server.said()}")
            for part in parts:
                part.check()
    finally:
        cut: set[UUID] = set()
        # The runs' processes first, while it can still be told which they started; once more, for one that was picked
        # up meanwhile.
        for last in (False, True):
            with _forgiving(tell):
                cut |= _under_way(names)
            if last:
                stop.set()
                halt.set()
            _stop_runs(server)
        for part in parts:
            part.join(STOP_S)
        with _forgiving(tell):
            _put_back(cut)


@contextmanager
def _forgiving(tell: Tell) -> Iterator[None]:
    """A server that is away is no reason to leave something running: what was cut is found at the next start."""
    try:
        yield
    except Exception as exc:  # noqa: BLE001 - whatever it is, the rest of the stop comes next
        tell(f"Prefect's server does not answer: {type(exc).__name__}: {exc}")


class _Part:
    """A thread of which is known how it ended."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self._name, self._work = name, work
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises HeadstartError where the thread has ended."""
        if not self._thread.is_alive():
            raise HeadstartError(
                f"the {self._name} ended by itself: {self._fault or 'it says nothing'}"
            ) from self._fault

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as exc:  # noqa: BLE001 - the main thread reports it
            self._fault = exc


def deployments(run: Run, cron: str) -> Iterator[dict[str, Any]]:
    """The three deployments of a model: on new labels, by the clock, and by hand, as `Flow.to_deployment` takes them.

    Raises:
        UsageError: `cron` is no schedule.
    """
    try:
        CronSchedule(cron=cron)
    except ValueError as exc:
        raise UsageError(f"--nightly takes a cron line, such as {NIGHTLY!r}; found {cron!r}") from exc
    common = {
        "parameters": deployment_parameters(run),
        "tags": ["headstart", run.name],
        "entrypoint_type": EntrypointType.MODULE_PATH,
        "concurrency_limit": ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE),
    }
    on_labels = DeploymentEventTrigger(
        expect={EVENT},
        match={"prefect.resource.id": resource_id(run.name)},
        parameters={key: f"{{{{ event.payload.{key} }}}}" for key in ("source", "name", "workspace")},
    )
    yield {
        "name": f"{run.name}-on-labels",
        "description": f"Retrains {run.name} when new labelled images have settled in {run.source}.",
        "triggers": [on_labels],
        **common,
    }
    yield {
        "name": f"{run.name}-nightly",
        "description": f"Retrains {run.name} by the clock: with nothing new, that takes seconds and changes nothing.",
        "schedule": Cron(cron),
        **common,
    }
    yield {"name": f"{run.name}-manual", "description": f"Retrains {run.name} when you say so.", **common}


def _serve(wanted: Sequence[dict[str, Any]], stop: threading.Event, tell: Tell) -> None:
    """Runs the deployments until `stop`, in a thread: the runner's own handler of signals would take the place of ours.

    A runner gives up when the server is away for some polls; then another one takes its place.
    """
    while not stop.is_set():
        try:
            asyncio.run(_run_until(stop, wanted, tell))
        except Exception as exc:  # noqa: BLE001 - whatever is away may come back
            tell(f"the runner stopped, and starts again in {STOP_S} s: {type(exc).__name__}: {exc}")
            stop.wait(STOP_S)


async def _run_until(stop: threading.Event, wanted: Sequence[dict[str, Any]], tell: Tell) -> None:
    runner = Runner(name="headstart", query_seconds=POLL_S, pause_on_shutdown=False)
    for each in wanted:
        # By its module, so that a run's process finds the flow in whatever folder it starts.
        await runner.aadd_deployment(await retrain.ato_deployment(**each))
    cut = await asyncio.to_thread(_under_way, [each["name"] for each in wanted])  # nothing of ours runs yet
    await asyncio.to_thread(_put_back, cut)
    if cut:
        tell(f"{len(cut)} {'run was' if len(cut) == 1 else 'runs were'} cut, and will go on")
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
    """Ends the processes of runs, and those that they started; the server is stopped later, by its own."""
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


def _recover(names: list[str], stop: threading.Event, tell: Tell) -> None:
    """Until `stop`: a run of these deployments whose process died is started again, or ended where it always dies."""
    told = False
    while not stop.wait(LOOK_S):
        try:
            for crashed in _crashed(names):
                tell(_start_again(crashed))
            told = False
        except Exception as exc:  # noqa: BLE001 - a server that is away comes back
            if not told:
                tell(f"can't look for runs that died, and try again: {type(exc).__name__}: {exc}")
            told = True


def _start_again(crashed: FlowRun) -> str:
    """Schedules a crashed run again, or marks it as failed. Returns what there is to tell."""
    why = crashed.state.message if crashed.state else None
    with get_client(sync_client=True) as client:
        if deaths(client.read_flow_run_states(crashed.id)) < MAX_DEATHS:
            client.set_flow_run_state(crashed.id, AwaitingRetry(message=DIED))
            return f"a run's process died, and the run goes on where it was: {why}"
        client.set_flow_run_state(crashed.id, Failed(message=GIVEN_UP))
        return f"a run failed: {GIVEN_UP}"


def _crashed(names: list[str]) -> list[FlowRun]:
    """The runs of these deployments that have been marked as crashed for a moment."""
    now = datetime.now(UTC)
    lately = {"after_": now - FORGOTTEN, "before_": now - CRASHED_FOR}
    return _runs(names, [StateType.CRASHED], FlowRunFilterEndTime.model_validate(lately))


def _under_way(names: list[str]) -> set[UUID]:
    """The runs of these deployments that are marked as running, or as about to."""
    return {flow_run.id for flow_run in _runs(names, [StateType.RUNNING, StateType.PENDING])}


def _runs(names: list[str], states: list[StateType], end_time: FlowRunFilterEndTime | None = None) -> list[FlowRun]:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[retrain.name])),
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=names)),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)), end_time=end_time
            ),
        )


def _put_back(cut: set[UUID]) -> None:
    """Schedules runs again that no process runs any more, unless they came to an end of their own."""
    with get_client(sync_client=True) as client:
        for flow_run_id in cut:
            state = client.read_flow_run(flow_run_id).state
            if state is None or not state.is_final() or state.is_crashed():
                waiting = Scheduled(name=CUT, message="Cut by a stop; the run goes on where it was.")
                client.set_flow_run_state(flow_run_id, waiting, force=True)
