"""Label issues: images whose label is probably wrong, found by confident learning. Labels are never changed.

Predictions are cross-fitted: each image's class comes from a ridge regression on stored features of the other folds,
and near-duplicates share a fold. Each fold's Gram matrix is computed once, block by block, and summed for each fit, so
all folds cost little more than one. Sums of fewer folds give the classifiers of the learning curve.

Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.storage.rows import Rows

FOLDS = 5
BLOCK = 8192
RIDGE = 0.3  # penalty, as a share of the features' mean variance, for data sets with fewer images than features


def out_of_fold_probabilities(
    features: np.ndarray | Rows, targets: np.ndarray, groups: np.ndarray, classes: int
) -> np.ndarray:
    """Cross-fitted class probabilities of each image, float32 [N, C].

    Args:
        features: [N, D], in memory or on disk.
        targets: class indices, int [N].
        groups: int [N], equal for near-duplicates: a group shares one fold.
        classes: C.
    """
    [logits] = out_of_fold_logits(features, targets, groups, classes, [FOLDS - 1])
    return to_probabilities(logits, targets)


def out_of_fold_logits(
    features: np.ndarray | Rows, targets: np.ndarray, groups: np.ndarray, classes: int, others: Sequence[int]
) -> np.ndarray:
    """Cross-fitted logits from K numbers of training folds, float32 [K, N, C]; see `out_of_fold_probabilities`.

    Args:
        others: the K numbers of training folds, each 1 to FOLDS - 1.
    """
    fold_of = _folds(targets, groups)
    grams = [_gram(features, targets, np.flatnonzero(fold_of == fold), classes) for fold in range(FOLDS)]
    logits = np.zeros((len(others), len(features), classes), np.float32)
    for fold in range(FOLDS):
        weights = []
        for count in others:
            parts = [grams[(fold + step) % FOLDS] for step in range(1, count + 1)]
            gram, cross = (np.sum(sums, axis=0) for sums in zip(*parts, strict=True))
            weights.append(_solve(gram, cross))
        rows, stacked = np.flatnonzero(fold_of == fold), np.concatenate(weights, axis=1)
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            predicted = (_with_intercept(features[block]) @ stacked).reshape(len(block), len(others), classes)
            logits[:, block] = predicted.transpose(1, 0, 2)
    return logits


def to_probabilities(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The softmax of `logits` [N, C] at the temperature with the lowest loss, float32 [N, C]."""
    from scipy.special import softmax

    return softmax(logits * _sharpness(logits, targets), axis=1).astype(np.float32)


def rank_label_issues(probabilities: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks images by how likely their label is wrong, the most likely first.

    A label is an issue where another class is more probable than the given one, and at least as probable as that class
    is on average for its own images (its threshold).

    Args:
        probabilities: float [N, C], cross-fitted.
        targets: the given classes, int [N].

    Returns:
        order: int [N], all images by ascending margin: the given class's probability less the best other one's.
        suggested: int [N], the most probable other class of each image.
        issue: bool [N].
    """
    rows = np.arange(len(targets))
    thresholds = np.array(
        [probabilities[targets == k, k].mean() if (targets == k).any() else 1.0 for k in range(probabilities.shape[1])]
    )
    others = probabilities.copy()
    others[rows, targets] = -1
    suggested = others.argmax(axis=1)
    margin = probabilities[rows, targets] - others[rows, suggested]
    issue = (others >= thresholds).any(axis=1) & (margin < 0)
    return np.argsort(margin, kind="stable"), suggested, issue


def _folds(targets: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """A fold for each image, int [N]: whole groups, assigned in turn, class by class."""
    _, leaders, members = np.unique(groups, return_index=True, return_inverse=True)
    order = np.argsort(targets[leaders], kind="stable")
    fold_of_group = np.empty(len(leaders), np.int64)
    fold_of_group[order] = np.arange(len(leaders)) % FOLDS
    return fold_of_group[members]


def _gram(
    features: np.ndarray | Rows, targets: np.ndarray, rows: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """(X'X, X'Y) of some rows, float32 [D + 1, D + 1] and [D + 1, C]; all classes have the same weight."""
    width = features.shape[1] + 1
    gram, cross = np.zeros((width, width), np.float32), np.zeros((width, classes), np.float32)
    sizes = np.maximum(np.bincount(targets, minlength=classes), 1)
    weight = np.sqrt(len(targets) / (classes * sizes)).astype(np.float32)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        scaled = _with_intercept(features[block]) * weight[targets[block], None]
        gram += scaled.T @ scaled
        cross += scaled.T @ (np.eye(classes, dtype=np.float32)[targets[block]] * weight[targets[block], None])
    return gram, cross


def _with_intercept(features: np.ndarray) -> np.ndarray:
    rows = features.astype(np.float32)
    return np.concatenate([rows, np.ones((len(rows), 1), np.float32)], axis=1)


def _solve(gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """The weights of the ridge regression, float32 [D + 1, C]; overwrites `gram`.

    The penalty limits the condition number to some thousands, so float32 gives the same ranking in half the time.
    """
    from scipy.linalg import cho_factor, cho_solve

    diagonal = np.einsum("ii->i", gram)  # a view
    diagonal[:-1] += RIDGE * diagonal[:-1].mean() + 1e-6
    diagonal[-1] += 1e-6  # no penalty on the intercept
    return cho_solve(cho_factor(gram, overwrite_a=True, check_finite=False), cross, check_finite=False)


def _sharpness(logits: np.ndarray, targets: np.ndarray) -> float:
    """The inverse temperature that minimises the loss of the softmax of `logits`."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def loss(log_factor: float) -> float:
        return -float(log_softmax(logits * np.exp(log_factor), axis=1)[np.arange(len(targets)), targets].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 5), method="bounded").x))  # type: ignore[attr-defined]
