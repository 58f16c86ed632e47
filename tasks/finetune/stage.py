"""From stored features to a saved head: the fine-tuning stage without Prefect."""

from __future__ import annotations

from collections.abc import Callable

from tasks.artifacts import FeaturesRef, HeadRef, Run, SnapshotRef, TrunkRef
from tasks.finetune.data import load_split
from tasks.finetune.head import TrainedHead, train_head, weights_digest
from tasks.finetune.unfrozen import tune_unfrozen, unfrozen_layers
from tasks.head_file import save_head

OnEpoch = Callable[[int, dict[str, float]], None]


def finetune(
    run: Run,
    snapshot: SnapshotRef,
    trunk: TrunkRef,
    features: FeaturesRef,
    on_epoch: OnEpoch = lambda epoch, logs: None,
) -> HeadRef:
    """Trains the head and writes `candidate/head.keras` and `history.json` into the run's folder.

    The head is the classifier; where the freeze boundary is a lower layer, the layers above that and the classifier.
    """
    trained = _train_classifier(run, snapshot, features, on_epoch)
    epochs = _numbered("classifier", trained)
    if features.activations_recipe:
        trained = _tune_unfrozen(run, snapshot, trunk, features, trained, on_epoch)
        epochs += _numbered("unfrozen", trained, start=len(epochs) + 1)
    best = len(epochs) - len(trained.history) + trained.best_epoch + 1
    history = {"epochs": epochs, "best_epoch": best, "temperature": trained.temperature}
    save_head(run.workspace, run.path("candidate/head.keras"), trained.model)
    run.workspace.write_json(run.path("history.json"), history)
    return HeadRef(
        keras_path=run.path("candidate/head.keras"),
        history_path=run.path("history.json"),
        digest=weights_digest(trained.model),
        temperature=trained.temperature,
    )


def epochs_at_most(run: Run, trunk: TrunkRef) -> int:
    """Epochs of both trainings together (progress)."""
    config = run.config.finetune
    return config.epochs + (config.unfrozen_epochs if trunk.output == "activations" else 0)


def _train_classifier(run: Run, snapshot: SnapshotRef, features: FeaturesRef, on_epoch: OnEpoch) -> TrainedHead:
    with (
        load_split(run, snapshot, features.recipe, features.views, "train") as train,
        load_split(run, snapshot, features.recipe, features.views, "validation") as validation,
    ):
        return train_head(train, validation, len(snapshot.labels), run.config.finetune, on_epoch)


def _tune_unfrozen(
    run: Run,
    snapshot: SnapshotRef,
    trunk: TrunkRef,
    features: FeaturesRef,
    classifier: TrainedHead,
    on_epoch: OnEpoch,
) -> TrainedHead:
    recipe = str(features.activations_recipe)
    with (
        load_split(run, snapshot, recipe, features.views, "train") as train,
        load_split(run, snapshot, recipe, features.views, "validation") as validation,
    ):
        upper, classes = unfrozen_layers(trunk), len(snapshot.labels)
        return tune_unfrozen(upper, classifier.model, train, validation, classes, run.config.finetune, on_epoch)


def _numbered(what: str, trained: TrainedHead, start: int = 1) -> list[dict]:
    return [{"epoch": number, "trained": what, **logs} for number, logs in enumerate(trained.history, start=start)]
