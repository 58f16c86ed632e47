"""The heads of all folds in one model: each learns of the other folds alone, and is the head that it would be alone."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.config import Finetune
from tasks.finetune.batches import Batches, Sampling
from tasks.finetune.data import Split
from tasks.finetune.fold_heads import Dealt, head_of_fold, train_fold_heads

CLASSES, FOLDS, WIDTH = 3, 4, 12
SMALL = Finetune(epochs=8, hidden_units=16, batch_size=32, learning_rate=0.01)
CENTRES = np.random.default_rng(1).normal(0, 1.5, (CLASSES, WIDTH))


def dealt(count: int, seed: int) -> Dealt:
    rng = np.random.default_rng(seed)
    targets = rng.integers(CLASSES, size=count)
    features = (CENTRES[targets] + rng.normal(0, 1, (count, WIDTH))).astype(np.float16)
    return Dealt(rows=Split(features=features, targets=targets, widths=(8, 4)), folds=rng.integers(FOLDS, size=count))


def logits_of(train: Dealt, config: Finetune = SMALL, epochs: list[int] | None = None) -> np.ndarray:
    """Of 50 images, float32 [50, F, C]."""
    count = (epochs if epochs is not None else []).append
    heads = train_fold_heads(train, dealt(60, 8), FOLDS, CLASSES, config, lambda epoch, logs: count(epoch))
    return np.asarray(heads(dealt(50, 9).rows.features, training=False))


@pytest.mark.parametrize("changes", [{}, {"hidden_units": 0}, {"heads": 3}, {"ema": 0.9}, {"mixup": 0.4}])
def test_the_head_of_each_fold_alone_gives_the_same_logits_and_has_learned(changes: dict[str, float]):
    train, config = dealt(200, 7), SMALL.model_copy(update=changes)
    heads = train_fold_heads(train, dealt(60, 8), FOLDS, CLASSES, config, lambda epoch, logs: None)
    asked = dealt(200, 9).rows
    together = np.asarray(heads(asked.features, training=False))
    assert together.shape == (200, FOLDS, CLASSES)
    for fold in range(FOLDS):
        alone = np.asarray(head_of_fold(heads, fold, train.rows, config)(asked.features, training=False))
        np.testing.assert_allclose(alone, together[:, fold], atol=1e-5)
        assert (alone.argmax(axis=1) == asked.targets).mean() > 0.8


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_the_labels_of_a_fold_change_every_head_but_its_own(mixup: float):
    config = SMALL.model_copy(update={"mixup": mixup, "class_weights": "none"})
    train = dealt(200, 7)
    wrong = np.where(train.folds == 1, (train.rows.targets + 1) % CLASSES, train.rows.targets)
    turned = Dealt(rows=Split(features=train.rows.features, targets=wrong, widths=(8, 4)), folds=train.folds)
    before, after = logits_of(train, config), logits_of(turned, config)
    assert np.array_equal(before[:, 1], after[:, 1])
    assert all(not np.allclose(before[:, fold], after[:, fold]) for fold in (0, 2, 3))


def test_the_same_data_give_the_same_logits_to_the_bit_and_patience_ends_the_training():
    assert np.array_equal(logits_of(dealt(200, 7)), logits_of(dealt(200, 7)))
    epochs: list[int] = []
    impatient = SMALL.model_copy(update={"patience": 1, "epochs": 60, "learning_rate": 1.0})
    logits_of(dealt(200, 7), impatient, epochs)
    assert 1 < len(epochs) < 60


def test_validation_of_one_fold_judges_all_heads():
    one = dealt(60, 8)
    alone = Dealt(rows=one.rows, folds=np.full(60, 2))
    heads = train_fold_heads(dealt(200, 7), alone, FOLDS, CLASSES, SMALL, lambda epoch, logs: None)
    assert np.isfinite(np.asarray(heads(one.rows.features, training=False))).all()


def test_a_row_that_does_not_teach_a_head_has_no_weight_there_nor_has_its_blend():
    rows, taught = dealt(64, 3).rows, np.random.default_rng(0).random((64, 2)) < 0.5
    weights = np.array([1.0, 2.0, 3.0], np.float32)
    plain = Batches(rows, weights, 16, taught=taught)
    _, targets, given = plain[1]
    assert np.array_equal(given, (targets @ weights)[:, None] * taught[16:32])
    blended = Batches(rows, weights, 64, Sampling(seed=1, mixup=0.4), taught=taught)[0][2]
    assert 0.1 < (blended > 0).mean() < 0.4  # both rows of a pair have to teach it
