"""The validate stage as a Prefect task."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import CatalogueRef, FeaturesRef, Run, SnapshotRef
from tasks.retry import is_transient
from tasks.validate.review import review_snapshot
from tasks.validate.validation import validate


@task(
    name="validate",
    retries=2,
    retry_delay_seconds=[1, 5],
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def validate_images(run: Run, catalogue: CatalogueRef) -> CatalogueRef:
    """Runs the Great Expectations suite, quarantines what it rejects, and stops where it must."""
    return validate(run, catalogue)


@task(
    name="review",
    retries=2,
    retry_delay_seconds=[1, 5],
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def review_images(run: Run, snapshot: SnapshotRef, features: FeaturesRef) -> int:
    """Ranks suspect labels, looks for copies and measures drift, by features; returns how many labels are suspect."""
    return review_snapshot(run, snapshot, features.recipe)
