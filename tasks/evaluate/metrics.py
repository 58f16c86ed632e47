"""Metrics of a classifier, and their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tasks.networks.intervals import wilson_interval

RESAMPLES = 400  # of a bootstrap
BINS = 10  # of confidence, as in the report's diagram: with few images more bins find more error by chance


def summary_metrics(targets: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Accuracy, macro F1 (over the classes that occur), expected calibration error, and n.

    Args:
        targets: int [N].
        probabilities: float [N, C].
    """
    predicted = probabilities.argmax(axis=1)
    return {
        "accuracy": float((predicted == targets).mean()) if len(targets) else float("nan"),
        "macro_f1": macro_f1(targets, predicted, probabilities.shape[1]),
        "ece": calibration_error(targets, probabilities),
        "n": len(targets),
    }


def class_metrics(targets: np.ndarray, predicted: np.ndarray, classes: int) -> list[dict[str, float]]:
    """For each class: n, recall with its 95 % Wilson interval (NaN without images), precision, F1."""
    from sklearn.metrics import precision_recall_fscore_support

    scores: Any = precision_recall_fscore_support(
        targets,
        predicted,
        labels=range(classes),
        zero_division=0,  # type: ignore[arg-type] - the stubs know strings only
    )
    hits = np.bincount(targets[targets == predicted], minlength=classes)
    rows = []
    for right, precision, recall, f1, n in zip(hits.tolist(), *(column.tolist() for column in scores), strict=True):
        low, high = wilson_interval(right, n)
        row = {"n": n, "recall": recall if n else float("nan"), "recall_low": low, "recall_high": high}
        rows.append({**row, "precision": precision, "f1": f1})
    return rows


def macro_f1(targets: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """The mean F1 of the classes that occur. Both arguments are int [N].

    scikit-learn's takes 1 ms for it, which a bootstrap repeats 400 times.
    """
    hits = np.bincount(targets[targets == predicted], minlength=classes)
    given, named = np.bincount(targets, minlength=classes), np.bincount(predicted, minlength=classes)
    present = given > 0
    return float((2 * hits[present] / (given + named)[present]).mean()) if present.any() else float("nan")


def macro_f1_interval(targets: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[float, float]:
    """The 95 % interval of macro F1, by bootstrap over the images."""
    rng, n = np.random.default_rng(0), len(targets)
    scores = [macro_f1(targets[rows], predicted[rows], classes) for rows in _resamples(rng, n)]
    low, high = np.quantile(scores, [0.025, 0.975])
    return float(low), float(high)


def calibration_error(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Expected calibration error over equal-width bins of confidence (Naeini et al. 2015)."""
    if not len(targets):
        return float("nan")
    return _calibration_gap(probabilities.max(axis=1), probabilities.argmax(axis=1) == targets)


def calibration_error_interval(targets: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the true calibration error.

    A binned error is never negative, so part of it is chance. The lower end is the error less the 97.5 % quantile of
    what chance makes of a perfectly calibrated model. The upper end is a bootstrap's, which is conservative, since
    resampling adds chance again.
    """
    rng, confidence = np.random.default_rng(0), probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == targets
    value = _calibration_gap(confidence, correct)
    drawn = [_calibration_gap(confidence[rows], correct[rows]) for rows in _resamples(rng, len(targets))]
    by_chance = np.quantile(_gaps_by_chance(confidence), 0.975)
    return max(0.0, value - float(by_chance)), float(np.quantile(drawn, 0.975))


def chance_calibration_error(probabilities: np.ndarray) -> float:
    """The calibration error that a perfectly calibrated model would show, on average, on so many images."""
    return float(_gaps_by_chance(probabilities.max(axis=1)).mean()) if len(probabilities) else float("nan")


def _gaps_by_chance(confidence: np.ndarray) -> np.ndarray:
    """Calibration errors with outcomes drawn from the predicted probabilities (consistency resampling, Broecker & Smith
    2007), float [RESAMPLES]."""
    rng = np.random.default_rng(0)
    return np.array([_calibration_gap(confidence, rng.random(len(confidence)) < confidence) for _ in range(RESAMPLES)])


def _calibration_gap(confidence: np.ndarray, correct: np.ndarray) -> float:
    index = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(index, correct - confidence.astype(np.float64), minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def _resamples(rng: np.random.Generator, n: int) -> Iterator[np.ndarray]:
    return (rng.integers(0, n, n) for _ in range(RESAMPLES))


def majority_share(targets: Sequence[int] | np.ndarray) -> float:
    """The accuracy of always predicting the largest class."""
    return float(np.bincount(np.asarray(targets)).max() / len(targets))
