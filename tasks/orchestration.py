"""What every stage's Prefect task has in common."""

from __future__ import annotations

import functools
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from typing import Any, ParamSpec, TypeVar, cast
from uuid import UUID

from prefect import Task, get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.utilities.callables import get_call_parameters

from tasks.config import Scale
from tasks.display import line as terminal_line
from tasks.display import stage_line
from tasks.errors import HeadstartError
from tasks.modality.wording import worded
from tasks.networks.onnx_session import available_cores
from tasks.records import (
    Batch,
    Candidate,
    Catalogue,
    CrossFitted,
    Decision,
    FeatureExtractor,
    Features,
    Head,
    Pool,
    Review,
    Run,
    Snapshot,
)
from tasks.runs import Account
from tasks.storage.artifacts import artifacts_in_use, kept
from tasks.storage.quarantine import FILE, read_entries

# Full disks, missing files and lacking permissions don't mend themselves within a retry's seconds.
PERMANENT_OS_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
# Object stores' clients have trees of their own (botocore, aiohttp); by name, for none of them need be installed.
CONNECTION_FAULTS = frozenset({"ConnectionError", "HTTPClientError", "ClientConnectionError", "ServerTimeoutError"})
# A store that is overloaded or a server that is restarted is back within a minute, mostly.
RETRY_DELAYS_S: list[float] = [1, 5, 15, 40]

LOGGED_FILES, SHOWN_FILES = 100, 3  # of those that a stage leaves out; the report names all

P = ParamSpec("P")
R = TypeVar("R")


_account: ContextVar[Account | None] = ContextVar("account", default=None)
# When the command began that runs the flow in its own process, on the clock of `Account.started`.
command_started: ContextVar[float | None] = ContextVar("command_started", default=None)


@contextmanager
def accounting() -> Iterator[Account]:
    """Collects what the block's tasks spend."""
    with artifacts_in_use() as artifacts:
        account = Account(artifacts=artifacts, started=command_started.get() or time.perf_counter())
        token = _account.set(account)
        try:
            yield account
        finally:
            _account.reset(token)


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Adds the block's wall time to the account of the run."""
    started = time.perf_counter()
    try:
        yield
    finally:
        if account := _account.get():
            account.seconds[name] = round(account.seconds.get(name, 0.0) + time.perf_counter() - started, 3)


def count_embedded(images: int) -> None:
    """Enters how many images a pass embedded."""
    if account := _account.get():
        account.embedded = max(account.embedded, images)


def stage(
    name: str, *, reads: Callable[..., Any] | None = None, version: int = 1
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """The decorator of a stage: transient faults are tried again, with back-off; permanent ones are not.

    Prefect neither caches nor keeps results: what is done already is known by its key.

    Args:
        name: of the task; its runs are named so, and by what they came to.
        reads: given, the result is kept: see `tasks.storage.artifacts.kept`.
        version: of the function, likewise.
    """

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        work = kept(name, function, version=version, reads=reads) if reads else function

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            started = time.perf_counter()
            with timed(name):
                result = work(*args, **kwargs)
            _show(name, _worded(one_line(result), args), time.perf_counter() - started)
            return result

        return task(
            name=name,
            task_run_name=name,
            retries=len(RETRY_DELAYS_S),
            retry_delay_seconds=RETRY_DELAYS_S,
            retry_condition_fn=is_transient,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(call)

    return decorate


def _worded(line: str, given: tuple[Any, ...]) -> str:
    """A stage's line for the items of the run that it was given."""
    return worded(line, given[0].config.task) if given and isinstance(given[0], Run) else line


def counted(number: int, item: str) -> str:
    """'1 image', '1,234 images'."""
    return f"{number:,} {item}{'' if number == 1 else 's'}"


def one_line(result: Any) -> str:
    """A stage's result in one line, for its log and its name on the run's page; empty where there is nothing to say."""
    match result:
        case Catalogue():
            line = f"{counted(result.images, 'image')}, {counted(result.quarantined, 'file')} quarantined"
            if result.ingested is None:  # once in a run
                line += f", {counted(result.corrected, 'label')} corrected" if result.corrected else ""
                line += f", {result.dropped:,} dropped" if result.dropped else ""
            return line
        case Snapshot():
            return f"{result.id}, {counted(result.images, 'image')} in {len(result.labels)} classes, {result.new:,} new"
        case FeatureExtractor(task="text"):
            return f"{result.backbone}, at most {counted(result.max_tokens, 'token')} a text, {result.precision}"
        case FeatureExtractor():
            return f"{result.backbone} up to {result.boundary}, {result.precision}"
        case Features():
            return f"{counted(result.embedded, 'image')} embedded"
        case Head():
            accuracy, epoch = result.validation_accuracy, result.best_epoch
            best = f"validation accuracy {accuracy:.3f} (epoch {epoch}), " if accuracy is not None else ""
            return f"{best}temperature {result.temperature:.2f}"
        case CrossFitted():
            return result.missing or f"{result.FOLDS} heads, each trained without a part of the images"
        case Review():
            return f"{counted(result.suspects, 'label')} worth a look"
        case Candidate():
            return f"candidate for version {result.version}"
        case Decision():
            accuracy = result.metrics.get("test", {}).get("accuracy")
            refused = [gate.name for gate in result.gates if gate.passed is False]
            verdict = "promote" if result.promote else f"refuse ({', '.join(refused)})"
            if result.undecided:
                verdict = "undecided by the test split, so all images are asked"
            return verdict if accuracy is None else f"{verdict}, test accuracy {accuracy:.3f}"
        case Pool():
            images, faults = counted(result.images, "image"), counted(result.faults, "file")
            return f"{images}, {result.embedded:,} of them new, {faults} left out"
        case Batch():
            return ", ".join(f"{number:,} {reason}" for reason, number in result.reasons.items())
        case str():  # the path of what was written
            return result
    return ""


def artifact_key(name: str, subject: str) -> str:
    """A key of Prefect's artifacts, of [a-z0-9-]: 'my_model' and 'gates' give 'my-model-gates'."""
    return f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}-{subject}"


def log(line: str) -> None:
    """Enters a line into the log of the task's run, which is on its page in Prefect."""
    if TaskRunContext.get():
        get_run_logger().info("%s", line)


def name_left_out(run: Run, folder: str) -> None:
    """Names the files that a stage left out, as its folder's `quarantine.jsonl` says; the terminal shows the first."""
    for number, entry in enumerate(islice(read_entries(run.workspace, f"{folder}/{FILE}"), LOGGED_FILES)):
        log(f"left out {entry.path}: {entry.reason}")
        if number < SHOWN_FILES:
            terminal_line(f"  left out  {entry.path}: {entry.reason}")


def _show(name: str, line: str, seconds: float) -> None:
    """Shows a result on the terminal, and in the task's log and its name, which go to the server."""
    if not line:
        return
    stage_line(name, line, seconds)
    log(f"{name}: {line}")
    if context := TaskRunContext.get():
        context.task_run.name = f"{name}: {line}"


@dataclass(frozen=True)
class Mapper:
    """Maps a task over argument tuples and gives the results in their order. `local`: in this process."""

    local: bool
    submit: Callable[[Task[..., Any], tuple[Any, ...]], Callable[[], Any]]

    def __call__(self, part: Task[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        if self.local:
            return (part(*call) for call in calls)
        results = [self.submit(part, call) for call in calls]
        return (result() for result in results)


@contextmanager
def mapping(scale: Scale, parts: int) -> Iterator[Mapper]:
    """Maps the parts of a stage: one after the other in this process, or on the workers of a Dask cluster.

    A single part is done in this process. A cluster that is started here ends with the block.
    """
    if scale.runner == "threads" or parts <= 1:
        yield Mapper(True, lambda part, call: lambda: part(*call))
        return
    from prefect_dask.task_runners import DaskTaskRunner

    own = {"n_workers": scale.dask_workers or available_cores(), "threads_per_worker": 1, "dashboard_address": None}
    runner = DaskTaskRunner(address=scale.dask_address) if scale.dask_address else DaskTaskRunner(cluster_kwargs=own)
    with runner:
        yield Mapper(False, lambda part, call: runner.submit(part, get_call_parameters(part.fn, call, {})).result)


def page_progress(name: str, subject: str) -> Callable[[float], None]:
    """A progress bar on the run's page in Prefect: call it with the share that is done, 0..1.

    Where the server does not answer, the work goes on.
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
