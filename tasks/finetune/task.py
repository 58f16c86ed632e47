"""The fine-tuning stage as a Prefect task."""

from __future__ import annotations

from tasks import keras_process
from tasks.artifacts import FeaturesRef, HeadRef, Run, SnapshotRef, TrunkRef
from tasks.finetune.stage import epochs_at_most, finetune, try_settings
from tasks.finetune.trial import Trial, measure_trunk
from tasks.progress import Progress
from tasks.task import stage


@stage("finetune", kept=True)
def finetune_head(run: Run, snapshot: SnapshotRef, trunk: TrunkRef, features: FeaturesRef) -> HeadRef:
    """Trains the head on stored features and, above a lower freeze boundary, on stored activations."""
    with Progress("finetune", epochs_at_most(run, trunk), "epochs") as progress:
        return keras_process.call(finetune, run, snapshot, trunk, features, lambda epoch, logs: progress.advance())


@stage("try")
def try_head(run: Run, snapshot: SnapshotRef, trunk: TrunkRef, features: FeaturesRef) -> Trial:
    """Trains a head with the run's settings and sees how it does on validation (`--auto`)."""
    return keras_process.call(try_settings, run, snapshot, trunk, features)


@stage("budget")
def try_trunk(run: Run, trunk: TrunkRef) -> Trial:
    """Measures what a trunk costs, before any image passes through it (`--auto`)."""
    return measure_trunk(run, trunk)
