"""The fine-tuning stage as Prefect tasks."""

from __future__ import annotations

from tasks.config import CHOSEN
from tasks.display import Progress
from tasks.finetune.cross_fit import cross_fit
from tasks.finetune.cross_fit import epochs_at_most as cross_fit_epochs
from tasks.finetune.stage import epochs_at_most, finetune, try_settings
from tasks.finetune.trial import Trial, measure_extractor
from tasks.networks import keras_process
from tasks.orchestration import log, stage
from tasks.records import CrossFitted, FeatureExtractor, Features, Head, Run


@stage("finetune", reads=lambda run, features, cross_fitted: run.config.finetune, version=2)
def finetune_head(run: Run, features: Features, cross_fitted: CrossFitted | None) -> Head:
    """Trains the head on stored features and, above a lower freeze boundary, on stored activations.

    Args:
        cross_fitted: predictions to calibrate the head with, where validation has too few images.
    """
    with Progress("finetune", epochs_at_most(run, features), "epochs") as progress:

        def on_epoch(epoch: int, logs: dict[str, float]) -> None:
            progress.advance(text=f"accuracy {logs['val_accuracy']:.3f}")
            losses = f"loss {logs['loss']:.3f}, on validation {logs['val_loss']:.3f}"
            log(f"epoch {epoch + 1}: {losses}, accuracy {logs['val_accuracy']:.3f}")

        return keras_process.call(finetune, run, features, cross_fitted, on_epoch)


@stage("cross-fit", reads=lambda run, features: [run.config.finetune, run.config.evaluate.cross_fit_s], version=2)
def cross_fit_heads(run: Run, features: Features) -> CrossFitted:
    """Predictions for the training and validation images by heads that were trained without them."""
    with Progress("cross-fit", cross_fit_epochs(run, features), "epochs") as progress:
        return keras_process.call(cross_fit, run, features, progress.advance)


@stage(
    "try",
    reads=lambda run, features: [run.config.finetune, {key: run.config.key(key) for key in CHOSEN}],
    version=2,
)
def try_head(run: Run, features: Features) -> Trial:
    """Trains a head with the run's settings and evaluates it on validation (`--auto`)."""
    return keras_process.call(try_settings, run, features)


@stage("budget")
def measure_cost(run: Run, extractor: FeatureExtractor) -> Trial:
    """Measures latency and size of a feature extractor before it is used (`--auto`)."""
    return measure_extractor(run, extractor)
