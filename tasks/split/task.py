"""The split stage as a Prefect task."""

from __future__ import annotations

from tasks.orchestration import stage
from tasks.records import Catalogue, Run, Snapshot
from tasks.split.assign import make_snapshot


@stage("split", reads=lambda run, catalogue: [run.name, run.config.split])
def split_images(run: Run, catalogue: Catalogue) -> Snapshot:
    """Assigns each image its permanent split, and writes the snapshot."""
    return make_snapshot(run, catalogue)
