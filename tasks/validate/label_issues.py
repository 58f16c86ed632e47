"""Label issues: images whose label is probably wrong. Labels are never changed.

Predictions are cross-fitted: each image's class comes from a ridge regression on stored features of the other folds,
and near-duplicates share a fold. Each fold's Gram matrix is computed once, block by block, and summed for each fit, so
all folds cost little more than one. Sums of fewer folds give the classifiers of the learning curve.

How likely a label is wrong follows from a model of the noise: a share of the labels was drawn from the other classes.
That share is estimated together with the temperature of the predictions, so a data set without wrong labels has no
issues, however hard its images are. On 600 photographs of clothing the thresholds of confident learning (Northcutt et
al. 2021) listed 73 images where no label had been changed, and 77 where 2 % had been, of which 11 % were wrong; this
lists 0.8 and 7.9, of which 65 % are. (Predictions of cross-fitted heads found no more than those of the regression.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.storage.rows import Rows

FOLDS = 5
BLOCK = 8192
RIDGE = 0.3  # penalty, as a share of the features' mean variance, for data sets with fewer images than features
FITTED = 20_000  # images that the noise is estimated from
FIRST_GUESS = 0.02  # of the share of wrong labels


@dataclass(frozen=True, kw_only=True)
class LabelErrors:
    """Which labels are wrong, as far as predictions for unseen images tell."""

    rate: float  # estimated share of the labels
    wrong: np.ndarray  # probability that each image's label is wrong, float [N]
    probabilities: np.ndarray  # of the true class, by the predictions alone, float [N, C]
    suggested: np.ndarray  # the most probable other class of each image, int [N]

    @property
    def issues(self) -> np.ndarray:
        """The images whose label is more likely wrong than right, the most likely first, int [I]."""
        order = np.argsort(-self.wrong, kind="stable")
        return order[self.wrong[order] > 0.5]


def out_of_fold_logits(
    features: np.ndarray | Rows, targets: np.ndarray, groups: np.ndarray, classes: int, others: Sequence[int]
) -> np.ndarray:
    """Cross-fitted logits from K numbers of training folds, float32 [K, N, C].

    Args:
        features: [N, D], in memory or on disk.
        targets: class indices, int [N].
        groups: int [N], equal for near-duplicates: a group shares one fold.
        classes: C.
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


def find_label_errors(logits: np.ndarray, targets: np.ndarray) -> LabelErrors:
    """How likely each label is wrong.

    The given label of an image whose true class has the probabilities p is `y` with probability
    (1 - r) p[y] + r (1 - p[y]) / (C - 1), where r is the share of wrong labels (uniform noise, as in Patrini et al.
    2017, "Making Deep Neural Networks Robust to Label Noise"). The temperature of p and r have the maximum likelihood
    of the given labels; Bayes' rule gives the probability that one is wrong.

    Args:
        logits: cross-fitted, float [N, C] with C at least 2.
        targets: the given classes, int [N].
    """
    from scipy.optimize import minimize
    from scipy.special import expit, logit, softmax

    def likelihoods(probability: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
        """Of each given label, by being right and by being wrong, float [N] each."""
        return (1 - rate) * probability, rate * (1 - probability) / max(logits.shape[1] - 1, 1)

    def loss(parameters: np.ndarray) -> float:
        scaled = softmax(logits[sample] * np.exp(parameters[0]), axis=1)
        parts = likelihoods(scaled[np.arange(len(sample)), targets[sample]], expit(parameters[1]))
        return -float(np.log(np.sum(parts, axis=0) + 1e-12).mean())

    rows = np.arange(len(targets))
    sample = rows[:: -(-len(rows) // FITTED)]  # sorted by digest, so any part is a random one
    start = [np.log(_sharpness(logits[sample], targets[sample])), logit(FIRST_GUESS)]
    found = minimize(loss, start, method="Nelder-Mead").x
    sharpness, rate = float(np.exp(found[0])), float(expit(found[1]))
    probabilities = softmax(logits * sharpness, axis=1)
    right, wrong = likelihoods(probabilities[rows, targets], rate)
    others = probabilities.copy()
    others[rows, targets] = -1
    return LabelErrors(
        rate=rate,
        wrong=wrong / np.maximum(right + wrong, 1e-12),
        probabilities=probabilities,
        suggested=others.argmax(axis=1),
    )


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
