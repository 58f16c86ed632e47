"""Cross-fitting: predictions for the training and validation images by heads that were trained without them.

The images are dealt into folds. For each fold a head of the same settings is trained on the training images of the
other folds, with the validation images of the other folds for early stopping, and predicts the fold. A fold follows
from the digest that names an image's group of near-duplicates: so copies share one, an image keeps its fold in every
later snapshot, and champion and challenger, cross-fitted alike, leave out the same images for each prediction.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from tasks.finetune.data import Split, load_split
from tasks.finetune.head import TrainedHead, predict, train_head
from tasks.finetune.unfrozen import tune_unfrozen, unfrozen_layers
from tasks.networks.calibration import fit_temperature
from tasks.records import CrossFitted, Features, Run
from tasks.storage.digests import uniform
from tasks.storage.rows import Chosen
from tasks.storage.snapshots import read_snapshot
from tasks.storage.tables import LOGITS, read_table, write_table

FOLDS = CrossFitted.FOLDS
# With fewer, the temperature is fitted on all cross-fitted images instead. On three easy classes of 100 images (17 for
# validation) that lowered the calibration error on unseen ones from 0.064 to 0.019, on ten classes of 150 images (22)
# from 0.053 to 0.041, and on 300 and 600 images (45 and more) it changed nothing.
FEW_VALIDATION_IMAGES = 50
FOLD_SALT = 0xD1B54A32D192ED03  # a fold has nothing to do with a split, which is drawn from digests, too


class _TooSlowError(Exception):
    """A fold took longer than its share of the budget."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One split with what the heads take: pooled features, and activations where layers are unfrozen."""

    sha256s: pd.Series
    folds: np.ndarray  # int [N], of the images
    pooled: Split  # all views of all images, one view after the other
    activations: Split | None

    def chosen(self, images: np.ndarray, *, views: bool = True) -> _Part:
        """The same of some images, bool [N]; with all views, or with the images as they are."""

        def rows_of(split: Split) -> Split:
            times = len(split.targets) // len(images) if views else 1
            places = np.flatnonzero(np.tile(images, times))
            return replace(split, features=Chosen(split.features, places), targets=split.targets[places])

        return _Part(
            sha256s=self.sha256s[images],
            folds=self.folds[images],
            pooled=rows_of(self.pooled),
            activations=self.activations and rows_of(self.activations),
        )


def cross_fit(run: Run, features: Features, on_fold: Callable[[], None] = lambda: None) -> CrossFitted:
    """Trains a head for each fold; writes `cross_fitted.parquet`, the logits float32 [C] of each image.

    Where a head takes longer than its share of `evaluate.cross_fit_s`, the work ends without a result, which the
    record says.
    """
    if not run.config.evaluate.cross_fit_s:
        return CrossFitted(features=features, folder=run.folder, missing="evaluate.cross_fit_s is 0")
    with ExitStack() as held:
        train, validation = (_load(run, features, split, held) for split in ("train", "validation"))
        found = []
        for fold in range(FOLDS):
            try:
                model = _train_without(run, features, fold, train, validation).model
            except _TooSlowError:
                return CrossFitted(features=features, folder=run.folder, missing=_too_slow(run))
            for part in (train, validation):
                asked = part.chosen(part.folds == fold, views=False)
                rows = asked.activations or asked.pooled
                found.append(pd.DataFrame({"sha256": asked.sha256s, "logits": list(predict(model, rows))}))
            on_fold()
    write_table(run.workspace, run.path(CrossFitted.FILE), pd.concat(found, ignore_index=True), LOGITS)
    return CrossFitted(features=features, folder=run.folder)


def calibrates(run: Run, features: Features) -> bool:
    """Whether the temperature is worth a cross-fitting: validation is small, and heads are trained in seconds."""
    if features.extractor.output == "activations" or not run.config.evaluate.cross_fit_s:
        return False
    split = read_snapshot(run.workspace, features.snapshot.id, ["split"])["split"]
    return int((split == "validation").sum()) < FEW_VALIDATION_IMAGES


def temperature(run: Run, fitted: CrossFitted) -> float:
    """The temperature that fits the cross-fitted logits best."""
    snapshot = fitted.features.snapshot
    label_of = read_snapshot(run.workspace, snapshot.id, ["sha256", "label"]).set_index("sha256")["label"]
    table = read_table(run.workspace, fitted.path)
    targets = label_of.loc[table["sha256"]].map({label: i for i, label in enumerate(snapshot.labels)})
    return fit_temperature(np.stack(table["logits"].to_list()), targets.to_numpy(np.int64))


def folds_of(groups: pd.Series) -> np.ndarray:
    """The fold of each image, int [N], by the name of its group, which is a digest."""
    return (uniform(groups, FOLD_SALT) % np.uint64(FOLDS)).astype(np.int64)


def _load(run: Run, features: Features, split: str, held: ExitStack) -> _Part:
    extractor = features.extractor
    table = read_snapshot(run.workspace, features.snapshot.id, ["sha256", "split", "group"])
    rows = table[table["split"] == split]
    activations = extractor.activations_key and held.enter_context(
        load_split(run, features, split, extractor.activations_key)
    )
    return _Part(
        sha256s=rows["sha256"],
        folds=folds_of(rows["group"]),
        pooled=held.enter_context(load_split(run, features, split, extractor.key)),
        activations=activations or None,
    )


def _train_without(run: Run, features: Features, fold: int, train: _Part, validation: _Part) -> TrainedHead:
    """The head of a fold. Where no validation image is of another fold, all choose the epoch."""
    config, classes = run.config.finetune, len(features.snapshot.labels)
    watch = _watch(run.config.evaluate.cross_fit_s / FOLDS)
    others = validation.folds != fold
    taught = train.chosen(train.folds != fold)
    held_out = validation.chosen(others if others.any() else ~others)
    trained = train_head(taught.pooled, held_out.pooled, classes, config, watch)
    if taught.activations and held_out.activations:
        upper = unfrozen_layers(features.extractor)
        trained = tune_unfrozen(upper, trained.model, taught.activations, held_out.activations, config, watch)
    return trained


def _watch(budget_s: float) -> Callable[[int, dict[str, float]], None]:
    """Called after each epoch: ends a training that has taken longer than `budget_s`."""
    started = time.perf_counter()

    def check(epoch: int, logs: dict[str, float]) -> None:
        if time.perf_counter() - started > budget_s:
            raise _TooSlowError

    return check


def _too_slow(run: Run) -> str:
    budget_s = run.config.evaluate.cross_fit_s
    return (
        f"cross-fitting was not done: {FOLDS} heads would take longer than evaluate.cross_fit_s, {budget_s:g} s; "
        "give it more seconds"
    )
