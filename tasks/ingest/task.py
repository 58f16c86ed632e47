"""The ingest stage as a Prefect task."""

from __future__ import annotations

from tasks.artifacts import CatalogueRef, Run
from tasks.ingest.catalogue import build_catalogue
from tasks.progress import Progress
from tasks.task import stage


@stage("ingest")
def ingest_images(run: Run) -> CatalogueRef:
    """Lists, reads, hashes and inspects the source; what was inspected before is not decoded again."""
    with Progress("ingest", None, "images") as progress:
        return build_catalogue(run, progress.report)
