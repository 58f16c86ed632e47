"""How good a classifier is, and how sure one can be of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z95 = 1.959963984540054  # the normal quantile of a two-sided 95 % interval


def confusion_matrix(targets: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts int64 [C, C]: row the true class, column the predicted one. Both arguments are int [N]."""
    return np.bincount(targets * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def summary_metrics(targets: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Accuracy, macro F1 (over the classes that occur), expected calibration error, and n.

    Args:
        targets: int [N].
        probabilities: float [N, C].
    """
    predicted = probabilities.argmax(axis=1)
    per_class = class_metrics(targets, predicted, probabilities.shape[1])
    present = [row["f1"] for row in per_class if row["n"]]
    return {
        "accuracy": float((predicted == targets).mean()) if len(targets) else float("nan"),
        "macro_f1": float(np.mean(present)) if present else float("nan"),
        "ece": calibration_error(targets, probabilities),
        "n": len(targets),
    }


def class_metrics(targets: np.ndarray, predicted: np.ndarray, classes: int) -> list[dict[str, float]]:
    """For each class: n, recall with its 95 % Wilson interval, precision, F1."""
    matrix = confusion_matrix(targets, predicted, classes)
    rows = []
    for index in range(classes):
        hits, n, named = int(matrix[index, index]), int(matrix[index].sum()), int(matrix[:, index].sum())
        low, high = wilson_interval(hits, n)
        rows.append(
            {
                "n": n,
                "recall": hits / n if n else float("nan"),
                "recall_low": low,
                "recall_high": high,
                "precision": hits / named if named else 0.0,
                "f1": 2 * hits / (n + named) if n + named else 0.0,
            }
        )
    return rows


def calibration_error(targets: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error over equal-width bins of confidence (Naeini et al. 2015)."""
    if not len(targets):
        return float("nan")
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == targets
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(correct[index == b].mean() - confidence[index == b].mean()) * (index == b).sum() for b in set(index)]
    return float(sum(gaps) / len(targets))


def wilson_interval(hits: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927); 0..1 where n is 0."""
    if n == 0:
        return 0.0, 1.0
    share, shrink = hits / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def majority_share(targets: Sequence[int] | np.ndarray) -> float:
    """What always naming the largest class would score."""
    return float(np.bincount(np.asarray(targets)).max() / len(targets))
