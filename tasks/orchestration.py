"""What every stage's Prefect task has in common."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast
from uuid import UUID

from prefect import Task, get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.utilities.callables import get_call_parameters

from tasks.config import Scale
from tasks.errors import HeadstartError
from tasks.figures import artifact_key, in_figures
from tasks.networks.onnx_session import available_cores
from tasks.resume import resumable

# Full disks, missing files and lacking permissions don't mend themselves within a retry's seconds.
PERMANENT_OS_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
# Object stores' clients have trees of their own (botocore, aiohttp); by name, for none of them need be installed.
CONNECTION_FAULTS = frozenset({"ConnectionError", "HTTPClientError", "ClientConnectionError", "ServerTimeoutError"})
# A store that is overloaded or a server that is restarted is back within a minute, mostly.
RETRY_DELAYS_S: list[float] = [1, 5, 15, 40]

P = ParamSpec("P")
R = TypeVar("R")


def stage(name: str, *, kept: bool = False) -> Callable[[Callable[P, R]], Task[P, R]]:
    """The decorator of a stage: transient faults are tried again, with back-off; permanent ones are not.

    Prefect neither caches nor keeps results: what is done already is known by its content's digest.

    Args:
        name: of the task; its runs are named so, and by what they came to.
        kept: its result lies in the run's folder, and a run that is gone on with takes it from there.
    """

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        work = resumable(name, function) if kept else function

        @functools.wraps(function)
        def told(*args: P.args, **kwargs: P.kwargs) -> R:
            result = work(*args, **kwargs)
            _tell(in_figures(result))
            return result

        return task(
            name=name,
            task_run_name=name,
            retries=len(RETRY_DELAYS_S),
            retry_delay_seconds=RETRY_DELAYS_S,
            retry_condition_fn=is_transient,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(told)

    return decorate


def _tell(figures: str) -> None:
    """Enters what a task came to into its log and into its name, which goes to the server with its last state."""
    context = TaskRunContext.get()
    if figures and context:
        get_run_logger().info("%s: %s", context.task_run.name, figures)
        context.task_run.name = f"{context.task_run.name}: {figures}"


@dataclass(frozen=True)
class Each:
    """Calls a task with each of some arguments, and gives the results in their order. `here`: in this process."""

    here: bool
    submit: Callable[[Task[..., Any], tuple[Any, ...]], Callable[[], Any]]

    def __call__(self, part: Task[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        if self.here:
            return (part(*call) for call in calls)
        results = [self.submit(part, call) for call in calls]
        return (result() for result in results)


@contextmanager
def spread(scale: Scale, parts: int) -> Iterator[Each]:
    """How a stage has its parts done: one after the other, here, or by the workers of a Dask cluster.

    A single part is done here. A cluster of this machine's own ends with the block.
    """
    if scale.runner == "threads" or parts <= 1:
        yield Each(True, lambda part, call: lambda: part(*call))
        return
    from prefect_dask.task_runners import DaskTaskRunner

    own = {"n_workers": scale.dask_workers or available_cores(), "threads_per_worker": 1, "dashboard_address": None}
    runner = DaskTaskRunner(address=scale.dask_address) if scale.dask_address else DaskTaskRunner(cluster_kwargs=own)
    with runner:
        yield Each(False, lambda part, call: runner.submit(part, get_call_parameters(part.fn, call, {})).result)


def page_progress(name: str, subject: str) -> Callable[[float], None]:
    """A progress bar on the run's page in Prefect: call it with the share that is done, 0..1.

    It says something, and decides nothing: where the server does not answer, the work goes on.
    """

    def show(share: float) -> None:
        nonlocal artifact
        try:
            if artifact is None:
                key = artifact_key(name, f"{subject}-progress")
                made = create_progress_artifact(100 * share, key=key, description=f"Progress of {subject}")
                artifact = cast(UUID, made)
            else:
                update_progress_artifact(artifact, 100 * share)
        except Exception as exc:  # noqa: BLE001
            get_run_logger().warning("progress is not shown: %s", exc)

    artifact: UUID | None = None
    show(0.0)
    return show


def is_transient(task: Any, run: Any, state: Any) -> bool:
    """Prefect's `retry_condition_fn`: whether a failed task should be tried again.

    A fault that headstart raised on purpose says something lasting of the source, the data or the configuration,
    unless it was caused by the storage or the network.
    """
    try:
        state.result()
    except Exception as exc:  # noqa: BLE001 - whatever the task raised is what is asked about
        return is_transient_fault(exc)
    return False


def is_transient_fault(fault: BaseException) -> bool:
    """True for faults of the storage, the network or time-outs, also where a HeadstartError was raised from one."""
    if isinstance(fault, HeadstartError):
        return fault.__cause__ is not None and is_transient_fault(fault.__cause__)
    if isinstance(fault, PERMANENT_OS_ERRORS):
        return False
    if isinstance(fault, OSError | subprocess.TimeoutExpired):  # time-outs and broken connections among them
        return True
    return any(base.__name__ in CONNECTION_FAULTS for base in type(fault).__mro__)
