"""The split stage as a Prefect task."""

from __future__ import annotations

from tasks.artifacts import CatalogueRef, Run, SnapshotRef
from tasks.split.assign import make_snapshot
from tasks.task import stage


@stage("split", kept=True)
def split_images(run: Run, catalogue: CatalogueRef) -> SnapshotRef:
    """Gives each image its split for ever, and names the snapshot by its content."""
    return make_snapshot(run, catalogue)
