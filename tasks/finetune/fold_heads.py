"""The heads of all folds, trained side by side in one model: rows are read, and a step is traced, once for all.

The head of a fold is trained on the rows of the other folds: in its loss, rows of its own have no weight. Each keeps
the weights of the epoch in which it did best on the validation rows of the other folds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.config import Finetune
from tasks.finetune.data import Split
from tasks.finetune.head import (
    CENTRE,
    DROPOUT,
    MEMBERS,
    add_members,
    build_head,
    centred_features,
    held_out_batch,
    member_losses,
    optimizer,
    rooted_and_centred,
    smoothed_losses,
    traced,
    train_epochs,
    training_batches,
)

if TYPE_CHECKING:
    import keras

    from tasks.finetune.batches import Batches

OnEpoch = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True, kw_only=True)
class Dealt:
    """Rows of a split, and the fold of each, int [N]."""

    rows: Split
    folds: np.ndarray


def train_fold_heads(
    train: Dealt, validation: Dealt, folds: int, classes: int, config: Finetune, on_epoch: OnEpoch
) -> keras.Model:
    """A model from features float32 [N, D] to logits float32 [N, F, C], those of each fold's head.

    The settings are those of `train_head`. Means, scales and class weights are those of all training rows. Where no
    validation row is of another fold, all of them choose a head's epoch.
    """
    import keras

    from tasks.finetune.batches import Batches

    heads = _heads(config)
    inputs, values = centred_features(train.rows.features, config, train.rows.widths)
    members = add_members(values, classes, config, folds * heads)
    logits = keras.ops.mean(keras.layers.Reshape((folds, heads, classes))(members), axis=2)
    model = keras.Model(inputs, logits, name="fold_heads")
    trained = keras.Model(model.get_layer(DROPOUT).output, model.get_layer(MEMBERS).output)

    centre = model.get_layer(CENTRE)
    taught = np.repeat(train.folds[:, None] != np.arange(folds), heads, axis=1)
    batches = training_batches(train.rows, classes, config, config.batch_size, centre, taught)
    trained.compile(
        optimizer=optimizer(config, config.learning_rate, len(batches) * config.epochs),
        loss=partial(member_losses, smoothing=config.label_smoothing),
    )
    prepare = partial(rooted_and_centred, centre=centre)
    held_out = Batches(validation.rows, np.ones(classes, np.float32), held_out_batch(validation.rows), prepare=prepare)
    best = _Best(trained, _Judge(trained, held_out, validation.folds, folds, config), folds, config.patience)
    averaging = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if config.ema else []
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: best.keep())
    report = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: on_epoch(epoch, dict(logs or {})))
    train_epochs(trained, batches, config.epochs, [*averaging, keep, report])
    best.restore()
    return model


def head_of_fold(heads: keras.Model, fold: int, train: Split, config: Finetune) -> keras.Model:
    """The head of one fold by itself, as `train_head` gives it."""
    folds, classes = heads.output_shape[1:]
    head = build_head(train.features, classes, config, train.widths)
    values = [np.asarray(weight)[of_fold] for weight, of_fold in _parts(heads, fold, folds)]
    head.set_weights([value.reshape(weight.shape) for value, weight in zip(values, head.weights, strict=True)])
    return head


class _Judge:
    """The validation loss of each fold's head, on the rows of the other folds."""

    def __init__(
        self, trained: keras.Model, held_out: Batches, row_folds: np.ndarray, folds: int, config: Finetune
    ) -> None:
        others = row_folds[:, None] != np.arange(folds)
        self._counts = others | ~others.any(axis=0)  # bool [V, F]
        self._held_out, self._shape, self._smoothing = held_out, (folds, _heads(config)), config.label_smoothing
        self._predict = traced(trained)

    def losses(self) -> np.ndarray:
        """Float [F]."""
        total, start = np.zeros(self._counts.shape[1]), 0
        for index in range(len(self._held_out)):
            rows, targets, _ = self._held_out[index]
            logits = self._predict(rows).reshape(len(rows), *self._shape, -1).mean(axis=2)
            each = smoothed_losses(logits, targets, self._smoothing)
            total += (each * self._counts[start : start + len(rows)]).sum(axis=0)
            start += len(rows)
        return total / self._counts.sum(axis=0)


class _Best:
    """Keeps the weights of each fold's best epoch, and ends the training when none has been better for `patience`."""

    def __init__(self, trained: keras.Model, judge: _Judge, folds: int, patience: int) -> None:
        self._trained, self._judge, self._patience = trained, judge, patience
        self._best, self._since = np.full(folds, np.inf), np.zeros(folds, int)
        self._weights: list[list[np.ndarray]] = [[] for _ in range(folds)]

    def keep(self) -> None:
        losses = self._judge.losses()
        better = losses < self._best
        for fold in np.flatnonzero(better):
            parts = _parts(self._trained, int(fold), len(losses))
            self._weights[fold] = [np.array(np.asarray(weight)[of_fold]) for weight, of_fold in parts]
        self._best, self._since = np.minimum(losses, self._best), np.where(better, 0, self._since + 1)
        if (self._since >= self._patience).all():
            self._trained.stop_training = True

    def restore(self) -> None:
        whole = [np.array(np.asarray(weight)) for weight in self._trained.weights]
        for fold, values in enumerate(self._weights):
            parts = _parts(self._trained, fold, len(self._weights))
            for array, (_, of_fold), value in zip(whole, parts, values, strict=True):
                array[of_fold] = value
        self._trained.set_weights(whole)


def _heads(config: Finetune) -> int:
    return config.heads if config.hidden_units else 1


def _parts(model: keras.Model, fold: int, folds: int) -> list[tuple[Any, tuple[slice, ...]]]:
    """Each weight of the heads, and where in it those of one fold lie: heads of a fold are neighbours."""
    found = []
    for weight in model.weights:
        # A dense layer has its units, those of all heads, last; the layer of members has the heads first.
        axis = 0 if MEMBERS in weight.path else len(weight.shape) - 1
        size = weight.shape[axis] // folds
        found.append((weight, (*[slice(None)] * axis, slice(fold * size, (fold + 1) * size))))
    return found
