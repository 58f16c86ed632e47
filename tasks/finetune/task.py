"""The fine-tuning stage as a Prefect task."""

from __future__ import annotations

from tasks.artifacts import FeaturesRef, HeadRef, Run, SnapshotRef
from tasks.finetune.stage import finetune
from tasks.progress import Progress
from tasks.task import stage


@stage("finetune")
def finetune_head(run: Run, snapshot: SnapshotRef, features: FeaturesRef) -> HeadRef:
    """Trains the head on stored features."""
    with Progress("finetune", run.config.finetune.epochs, "epochs") as progress:
        return finetune(run, snapshot, features, lambda epoch, logs: progress.advance())
