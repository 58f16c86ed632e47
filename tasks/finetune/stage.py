"""From stored features to a saved head: the fine-tuning stage without Prefect."""

from __future__ import annotations

from collections.abc import Callable

from tasks.artifacts import FeaturesRef, HeadRef, Run, SnapshotRef
from tasks.finetune.data import load_split
from tasks.finetune.head import train_head, weights_digest
from tasks.head_file import save_head


def finetune(
    run: Run,
    snapshot: SnapshotRef,
    features: FeaturesRef,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, logs: None,
) -> HeadRef:
    """Trains the head and writes `candidate/head.keras` and `history.json` into the run's folder."""
    with (
        load_split(run, snapshot, features, "train") as train,
        load_split(run, snapshot, features, "validation") as validation,
    ):
        trained = train_head(train, validation, len(snapshot.labels), run.config.finetune, on_epoch)
    history = {
        "epochs": [{"epoch": number, **logs} for number, logs in enumerate(trained.history, start=1)],
        "best_epoch": trained.best_epoch + 1,
        "temperature": trained.temperature,
    }
    save_head(run.workspace, run.path("candidate/head.keras"), trained.model)
    run.workspace.write_json(run.path("history.json"), history)
    return HeadRef(
        keras_path=run.path("candidate/head.keras"),
        history_path=run.path("history.json"),
        digest=weights_digest(trained.model),
        temperature=trained.temperature,
    )
