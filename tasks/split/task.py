"""The split stage as a Prefect task."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import CatalogueRef, Run, SnapshotRef
from tasks.retry import is_transient
from tasks.split.assign import make_snapshot


@task(
    name="split",
    retries=2,
    retry_delay_seconds=[1, 5],
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def split_images(run: Run, catalogue: CatalogueRef) -> SnapshotRef:
    """Gives each image its split for ever, and names the snapshot by its content."""
    return make_snapshot(run, catalogue)
