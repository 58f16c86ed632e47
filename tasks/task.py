"""What every stage's Prefect task has in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext

from tasks.figures import in_figures
from tasks.resume import resumable
from tasks.retry import is_transient

# A store that is overloaded or a server that is restarted is back within a minute, mostly.
RETRY_DELAYS_S = [1, 5, 15, 40]


def stage(name: str, *, kept: bool = False):
    """The decorator of a stage: transient faults are tried again, with back-off; permanent ones are not.

    Prefect neither caches nor keeps results: what is done already is known by its content's digest.

    Args:
        name: of the task; its runs are named so, and by what they came to.
        kept: its result lies in the run's folder, and a run that is gone on with takes it from there.
    """

    def decorate(function: Callable[..., Any]):
        work = resumable(name, function) if kept else function

        @functools.wraps(function)
        def told(*args: Any, **kwargs: Any) -> Any:
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
