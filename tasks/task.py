"""What every stage's Prefect task has in common."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.retry import is_transient


def stage(name: str):
    """The decorator of a stage: transient faults are tried again, with back-off; permanent ones are not.

    Prefect neither caches nor keeps results: what is done already is known by its content's digest.
    """
    return task(
        name=name,
        retries=2,
        retry_delay_seconds=[1, 5],
        retry_condition_fn=is_transient,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
