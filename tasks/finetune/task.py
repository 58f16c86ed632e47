"""The fine-tuning stage as Prefect tasks."""

from __future__ import annotations

from tasks.config import CHOSEN
from tasks.display import Progress
from tasks.finetune.stage import epochs_at_most, finetune, try_settings
from tasks.finetune.trial import Trial, measure_extractor
from tasks.networks import keras_process
from tasks.orchestration import log, stage
from tasks.records import FeatureExtractor, Features, Head, Run


@stage("finetune", reads=lambda run, features: run.config.finetune)
def finetune_head(run: Run, features: Features) -> Head:
    """Trains the head on stored features and, above a lower freeze boundary, on stored activations."""
    with Progress("finetune", epochs_at_most(run, features), "epochs") as progress:

        def on_epoch(epoch: int, logs: dict[str, float]) -> None:
            progress.advance(text=f"accuracy {logs['val_accuracy']:.3f}")
            losses = f"loss {logs['loss']:.3f}, on validation {logs['val_loss']:.3f}"
            log(f"epoch {epoch + 1}: {losses}, accuracy {logs['val_accuracy']:.3f}")

        return keras_process.call(finetune, run, features, on_epoch)


@stage("try", reads=lambda run, features: [run.config.finetune, {key: run.config.key(key) for key in CHOSEN}])
def try_head(run: Run, features: Features) -> Trial:
    """Trains a head with the run's settings and evaluates it on validation (`--auto`)."""
    return keras_process.call(try_settings, run, features)


@stage("budget")
def measure_cost(run: Run, extractor: FeatureExtractor) -> Trial:
    """Measures latency and size of a feature extractor before it is used (`--auto`)."""
    return measure_extractor(run, extractor)
