"""The fine-tuning stage: from stored features to a saved head."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from tasks.finetune.cross_fit import temperature
from tasks.finetune.data import load_split
from tasks.finetune.head import TrainedHead, train_head, weights_digest
from tasks.finetune.trial import Trial, evaluated, measure_extractor
from tasks.finetune.unfrozen import tune_unfrozen, unfrozen_layers
from tasks.networks.head_file import save_head
from tasks.records import CrossFitted, Features, Head, Run, Snapshot
from tasks.storage.snapshots import read_snapshot
from tasks.storage.tables import LOGITS, write_table

OnEpoch = Callable[[int, dict[str, float]], None]

TRIAL_EPOCHS = 1  # of the layers above a lower boundary; each has every view of every image


def _no_epoch(epoch: int, logs: dict[str, float]) -> None: ...


def finetune(
    run: Run, features: Features, cross_fitted: CrossFitted | None = None, on_epoch: OnEpoch = _no_epoch
) -> Head:
    """Trains the head; writes `head.keras`, `history.json` and `validation_logits.parquet`.

    The head is the classifier; above a lower freeze boundary, the layers above the boundary and the classifier.

    Args:
        cross_fitted: predictions to fit the temperature on, where validation has too few.
    """
    trained = _train_classifier(run, features, on_epoch)
    epochs = _numbered("classifier", trained)
    if features.extractor.activations_key:
        trained = _tune_unfrozen(run, features, trained, on_epoch)
        epochs += _numbered("unfrozen", trained, start=len(epochs) + 1)
    if cross_fitted and not cross_fitted.missing:
        trained = replace(trained, temperature=temperature(run, cross_fitted))
    best = len(epochs) - len(trained.history) + trained.best_epoch + 1
    history = {"epochs": epochs, "best_epoch": best, "temperature": trained.temperature}
    save_head(run.workspace, run.path("head.keras"), trained.model)
    run.workspace.write_json(run.path("history.json"), history)
    _write_validation(run, features.snapshot, trained)
    return Head(
        features=features,
        digest=weights_digest(trained.model),
        temperature=trained.temperature,
        folder=run.folder,
        best_epoch=best,
        validation_accuracy=epochs[best - 1]["val_accuracy"],
    )


def try_settings(run: Run, features: Features) -> Trial:
    """Trains with a run's configuration and returns only the results on validation.

    Layers above a lower boundary are trained only briefly: if they beat the classifier early, they do so later too.
    """
    started = time.perf_counter()
    trained = _train_classifier(run, features, _no_epoch)
    if features.extractor.activations_key:
        short = replace(run, config=run.config.with_keys({"finetune.unfrozen_epochs": TRIAL_EPOCHS}))
        trained = _tune_unfrozen(short, features, trained, _no_epoch)
    with load_split(run, features, "validation", features.extractor.key) as validation:
        targets = validation.targets
    seconds = time.perf_counter() - started
    return evaluated(measure_extractor(run, features.extractor), trained.logits / trained.temperature, targets, seconds)


def epochs_at_most(run: Run, features: Features) -> int:
    """The maximum number of epochs of both trainings together (for progress)."""
    config = run.config.finetune
    return config.epochs + (config.unfrozen_epochs if features.extractor.output == "activations" else 0)


def _train_classifier(run: Run, features: Features, on_epoch: OnEpoch) -> TrainedHead:
    key = features.extractor.key
    with load_split(run, features, "train", key) as train, load_split(run, features, "validation", key) as validation:
        return train_head(train, validation, len(features.snapshot.labels), run.config.finetune, on_epoch)


def _tune_unfrozen(run: Run, features: Features, classifier: TrainedHead, on_epoch: OnEpoch) -> TrainedHead:
    key = features.extractor.head_key
    with load_split(run, features, "train", key) as train, load_split(run, features, "validation", key) as validation:
        upper = unfrozen_layers(features.extractor)
        return tune_unfrozen(upper, classifier.model, train, validation, run.config.finetune, on_epoch)


def _write_validation(run: Run, snapshot: Snapshot, trained: TrainedHead) -> None:
    table = read_snapshot(run.workspace, snapshot.id, ["sha256", "split"])
    validation = table[table["split"] == "validation"].assign(logits=list(trained.logits))
    write_table(run.workspace, run.path("validation_logits.parquet"), validation, LOGITS)


def _numbered(what: str, trained: TrainedHead, start: int = 1) -> list[dict]:
    return [{"epoch": number, "trained": what, **logs} for number, logs in enumerate(trained.history, start=start)]
