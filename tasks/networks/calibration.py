"""Temperature scaling (Guo et al. 2017): one number that makes the claimed probabilities come true more often."""

from __future__ import annotations

import math

import numpy as np

SMALLEST = 1e-30  # avoids log(0): a float32 probability may round to 0
FOLDS = 5


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature in 0.05..20 that minimises the negative log-likelihood (Guo et al. 2017) of smoothed targets.

    Each target is held to be right with probability (N + 1) / (N + 2), by Laplace's rule of succession, as in Platt
    1999, "Probabilistic Outputs for Support Vector Machines". So certainty does not outrun the evidence: where all of
    45 rows are right, the best temperature claims about 98 %, and not 100 %.

    Args:
        logits: float [N, C], of held-out rows.
        targets: int [N].
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    rows, classes = logits.shape
    wrong = 1 / (rows + 2)
    smoothed = np.full((rows, classes), wrong / max(classes - 1, 1))
    smoothed[np.arange(rows), targets] = 1 - wrong

    def loss(log_temperature: float) -> float:
        scores = log_softmax(logits.astype(np.float64) / math.exp(log_temperature), axis=1)
        return -float((smoothed * scores).sum() / max(rows, 1))

    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded")
    return float(math.exp(found.x))


def uncalibrated(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities at temperature 1, float64 [N, C], from those at `temperature`."""
    from scipy.special import softmax

    return softmax(_logits(probabilities, temperature), axis=1)


def cross_fitted(probabilities: np.ndarray, targets: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities of each row at a temperature fitted on the other folds, float64 [N, C].

    A temperature that was fitted on the rows that it is judged on looks better than it is; these don't.

    Args:
        probabilities: float [N, C], of the model.
        targets: int [N].
        temperature: the model's own.
    """
    from scipy.special import softmax

    logits = _logits(probabilities, temperature)
    if len(targets) < FOLDS:
        return softmax(logits / temperature, axis=1)
    fold = np.arange(len(targets)) % FOLDS  # rows are sorted by digest, which is as good as a shuffle
    fitted = [fit_temperature(logits[fold != own], targets[fold != own]) for own in range(FOLDS)]
    return softmax(logits / np.array(fitted)[fold, None], axis=1)


def _logits(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    return np.log(np.maximum(probabilities.astype(np.float64), SMALLEST)) * temperature
