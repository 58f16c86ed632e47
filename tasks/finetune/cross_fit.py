"""Cross-fitting: predictions for the training and validation images by heads that were trained without them.

The images are dealt into folds. For each fold a head of the same settings is trained on the training images of the
other folds, with the validation images of the other folds for early stopping, and predicts the fold; the classifiers of
all folds are trained at once (`tasks.finetune.fold_heads`). A fold follows
from the digest that names an image's group of near-duplicates: so copies share one, an image keeps its fold in every
later snapshot, and champion and challenger, cross-fitted alike, leave out the same images for each prediction.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tasks.finetune.data import Split, load_split
from tasks.finetune.fold_heads import Dealt, head_of_fold, train_fold_heads
from tasks.finetune.head import held_out_batch, predict
from tasks.finetune.unfrozen import tune_unfrozen, unfrozen_layers
from tasks.networks.calibration import fit_temperature
from tasks.records import CrossFitted, Features, Run
from tasks.storage.digests import uniform
from tasks.storage.rows import Chosen
from tasks.storage.snapshots import read_snapshot
from tasks.storage.tables import LOGITS, read_table, write_table

if TYPE_CHECKING:
    import keras

Watch = Callable[[int, dict[str, float]], None]

FOLDS = CrossFitted.FOLDS
# With fewer, the temperature is fitted on all cross-fitted images instead. On three easy classes of 100 images (17 for
# validation) that lowered the calibration error on unseen ones from 0.064 to 0.019, on ten classes of 150 images (22)
# from 0.053 to 0.041, and on 300 and 600 images (45 and more) it changed nothing.
FEW_VALIDATION_IMAGES = 50
FOLD_SALT = 0xD1B54A32D192ED03  # a fold has nothing to do with a split, which is drawn from digests, too


class _TooSlowError(Exception):
    """The trainings took longer than the budget."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One split with what the heads take: pooled features, and activations where layers are unfrozen."""

    sha256s: pd.Series
    folds: np.ndarray  # int [N], of the images
    pooled: Split  # all views of all images, one view after the other
    activations: Split | None

    def dealt(self) -> Dealt:
        """All rows of pooled features, and their folds."""
        times = len(self.pooled.targets) // max(len(self.folds), 1)
        return Dealt(rows=self.pooled, folds=np.tile(self.folds, times))

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


def cross_fit(run: Run, features: Features, on_epoch: Callable[[], None] = lambda: None) -> CrossFitted:
    """Trains a head for each fold; writes `cross_fitted.parquet`, the logits float32 [C] of each image.

    Where that takes longer than `evaluate.cross_fit_s`, the work ends without a result, which the record says.

    Args:
        on_epoch: called after each epoch of each training; see `epochs_at_most`.
    """
    if not run.config.evaluate.cross_fit_s:
        return CrossFitted(features=features, folder=run.folder, missing="evaluate.cross_fit_s is 0")
    watch = _watch(run.config.evaluate.cross_fit_s, on_epoch)
    with ExitStack() as held:
        parts = [_load(run, features, split, held) for split in ("train", "validation")]
        try:
            found = _predictions(run, features, parts[0], parts[1], watch)
        except _TooSlowError:
            return CrossFitted(features=features, folder=run.folder, missing=_too_slow(run))
    write_table(run.workspace, run.path(CrossFitted.FILE), pd.concat(found, ignore_index=True), LOGITS)
    return CrossFitted(features=features, folder=run.folder)


def epochs_at_most(run: Run, features: Features) -> int:
    """The maximum number of epochs of a cross-fitting (for progress)."""
    config = run.config.finetune
    return config.epochs + (FOLDS * config.unfrozen_epochs if features.extractor.output == "activations" else 0)


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


def _predictions(run: Run, features: Features, train: _Part, validation: _Part, watch: Watch) -> list[pd.DataFrame]:
    """Columns sha256 and logits, of all images."""
    config, classes = run.config.finetune, len(features.snapshot.labels)
    heads = train_fold_heads(train.dealt(), validation.dealt(), FOLDS, classes, config, watch)
    if train.activations is None:
        return [
            pd.DataFrame({"sha256": part.sha256s, "logits": list(_by_own_fold(heads, part))})
            for part in (train, validation)
        ]
    found = []
    for fold in range(FOLDS):
        classifier = head_of_fold(heads, fold, train.pooled, config)
        others = validation.folds != fold
        taught = train.chosen(train.folds != fold).activations
        held_out = validation.chosen(others if others.any() else ~others).activations
        assert taught is not None
        assert held_out is not None
        model = tune_unfrozen(unfrozen_layers(features.extractor), classifier, taught, held_out, config, watch).model
        for part in (train, validation):
            asked = part.chosen(part.folds == fold, views=False)
            assert asked.activations is not None
            found.append(pd.DataFrame({"sha256": asked.sha256s, "logits": list(predict(model, asked.activations))}))
    return found


def _by_own_fold(heads: keras.Model, part: _Part) -> np.ndarray:
    """The logits of each image by the head of its fold, float32 [N, C]."""
    found = np.zeros((len(part.folds), heads.output_shape[-1]), np.float32)
    count = held_out_batch(part.pooled)
    for start in range(0, len(found), count):
        of_block = part.folds[start : start + count]
        rows = part.pooled.features[start : start + len(of_block)]  # view 0 comes first
        found[start : start + count] = np.asarray(heads(rows, training=False))[np.arange(len(rows)), of_block]
    return found


def _watch(budget_s: float, on_epoch: Callable[[], None]) -> Watch:
    """Called after each epoch: ends trainings that have together taken longer than `budget_s`."""
    started = time.perf_counter()

    def check(epoch: int, logs: dict[str, float]) -> None:
        if time.perf_counter() - started > budget_s:
            raise _TooSlowError
        on_epoch()

    return check


def _too_slow(run: Run) -> str:
    budget_s = run.config.evaluate.cross_fit_s
    return (
        f"cross-fitting was not done: {FOLDS} heads would take longer than evaluate.cross_fit_s, {budget_s:g} s; "
        "give it more seconds"
    )
