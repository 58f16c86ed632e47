"""The augmentation stage as a Prefect task."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import Run
from tasks.augment.policy import Policy, load_policy


@task(name="augment", cache_policy=NO_CACHE, persist_result=False)
def choose_policy(run: Run) -> Policy:
    """The checked augmentation policy; extraction applies it to each training image as it decodes it."""
    return load_policy(run.config.augment.policy, run.config.augment.views)
