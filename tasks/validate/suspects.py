"""Label suspects: images whose label is probably wrong, found by confident learning; shown, never changed.

Each image is judged by a classifier that was not trained on it (nor on its near-duplicates): a ridge regression from
stored features onto the classes, in folds. Each fold's Gram matrix is summed once and added to the others', so all
folds together cost little more than one fit, and features pass through memory block by block. From fewer folds the same
sums make classifiers of fewer images: the learning curve.

After Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.storage.rows import Rows

FOLDS = 5
BLOCK = 8192
# Of the mean variance of the features: keeps the solution tame where there are fewer images than features.
RIDGE = 0.3


def out_of_fold_probabilities(
    features: np.ndarray | Rows, targets: np.ndarray, groups: np.ndarray, classes: int
) -> np.ndarray:
    """Each image's class probabilities from the images of the other folds, float32 [N, C].

    Args:
        features: [N, D], in memory or on disk.
        targets: class indices, int [N].
        groups: what must not be spread over folds, int [N]: equal for near-duplicates.
        classes: C.
    """
    [logits] = out_of_fold_logits(features, targets, groups, classes, [FOLDS - 1])
    return to_probabilities(logits, targets)


def out_of_fold_logits(
    features: np.ndarray | Rows, targets: np.ndarray, groups: np.ndarray, classes: int, others: Sequence[int]
) -> np.ndarray:
    """The same before the softmax, from fewer images, too: float32 [K, N, C] for the K counts of `others`.

    Args:
        others: how many of the other folds each classifier is made of, 1 to FOLDS - 1.
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
            answers = (_with_intercept(features[block]) @ stacked).reshape(len(block), len(others), classes)
            logits[:, block] = answers.transpose(1, 0, 2)
    return logits


def to_probabilities(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The softmax of `logits` [N, C] at the temperature that fits the targets best, float32 [N, C]."""
    from scipy.special import softmax

    return softmax(logits * _sharpness(logits, targets), axis=1).astype(np.float32)


def rank_suspects(probabilities: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The images by how doubtful their label is, the worst first.

    An image is a suspect where some other class is as probable as that class usually is for its own images (its
    threshold), and more so than the given one.

    Args:
        probabilities: float [N, C], of classifiers that did not see the image.
        targets: the given classes, int [N].

    Returns:
        order: int [N], all images, by ascending margin: the given class's probability less the best other one's.
        suggested: int [N], the most probable other class of each image.
        suspect: bool [N].
    """
    rows = np.arange(len(targets))
    thresholds = np.array(
        [probabilities[targets == k, k].mean() if (targets == k).any() else 1.0 for k in range(probabilities.shape[1])]
    )
    others = probabilities.copy()
    others[rows, targets] = -1
    suggested = others.argmax(axis=1)
    margin = probabilities[rows, targets] - others[rows, suggested]
    suspect = (others >= thresholds).any(axis=1) & (margin < 0)
    return np.argsort(margin, kind="stable"), suggested, suspect


def _folds(targets: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """A fold for each image, int [N]: whole groups, dealt out class by class."""
    _, leaders, members = np.unique(groups, return_index=True, return_inverse=True)
    order = np.argsort(targets[leaders], kind="stable")
    fold_of_group = np.empty(len(leaders), np.int64)
    fold_of_group[order] = np.arange(len(leaders)) % FOLDS
    return fold_of_group[members]


def _gram(
    features: np.ndarray | Rows, targets: np.ndarray, rows: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """(X'X, X'Y) of some rows, float32 [D + 1, D + 1] and [D + 1, C]; each class weighs the same."""
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
    """The ridge regression's weights, float32 [D + 1, C]; `gram` is overwritten. The penalty bounds its condition
    number to some thousands, so single precision, at half the time, ranks the images alike."""
    from scipy.linalg import cho_factor, cho_solve

    diagonal = np.einsum("ii->i", gram)  # a view
    diagonal[:-1] += RIDGE * diagonal[:-1].mean() + 1e-6
    diagonal[-1] += 1e-6  # the intercept is not shrunk
    return cho_solve(cho_factor(gram, overwrite_a=True, check_finite=False), cross, check_finite=False)


def _sharpness(logits: np.ndarray, targets: np.ndarray) -> float:
    """The factor (inverse temperature) that makes the softmax of `logits` fit the targets best."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def loss(log_factor: float) -> float:
        return -float(log_softmax(logits * np.exp(log_factor), axis=1)[np.arange(len(targets)), targets].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 5), method="bounded").x))  # type: ignore[attr-defined]
