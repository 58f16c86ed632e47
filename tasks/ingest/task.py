"""The ingest stage as a Prefect task."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import CatalogueRef, Run
from tasks.ingest.catalogue import build_catalogue
from tasks.progress import Progress
from tasks.retry import is_transient


@task(
    name="ingest",
    retries=2,
    retry_delay_seconds=[1, 5],
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def ingest_images(run: Run) -> CatalogueRef:
    """Lists, reads, hashes and inspects the source; what was inspected before is not decoded again."""
    with Progress("ingest", None, "images") as progress:
        return build_catalogue(run, progress.report)
