"""The fine-tuning stage as a Prefect task."""

from __future__ import annotations

from tasks.finetune.stage import epochs_at_most, finetune, try_settings
from tasks.finetune.trial import Trial, measure_extractor
from tasks.networks import keras_process
from tasks.orchestration import stage
from tasks.progress import Progress
from tasks.records import FeatureExtractor, Features, Head, Run, Snapshot


@stage("finetune", kept=True)
def finetune_head(run: Run, snapshot: Snapshot, extractor: FeatureExtractor, features: Features) -> Head:
    """Trains the head on stored features and, above a lower freeze boundary, on stored activations."""
    with Progress("finetune", epochs_at_most(run, extractor), "epochs") as progress:
        return keras_process.call(finetune, run, snapshot, extractor, features, lambda epoch, logs: progress.advance())


@stage("try")
def try_head(run: Run, snapshot: Snapshot, extractor: FeatureExtractor, features: Features) -> Trial:
    """Trains a head with the run's settings and sees how it does on validation (`--auto`)."""
    return keras_process.call(try_settings, run, snapshot, extractor, features)


@stage("budget")
def try_extractor(run: Run, extractor: FeatureExtractor) -> Trial:
    """Measures what a feature extractor costs, before any image passes through it (`--auto`)."""
    return measure_extractor(run, extractor)
