"""Champion against challenger, paired: the same test images, each answered by both files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Outcome = Literal["better", "equivalent", "worse", "not-enough-data"]
RESAMPLES = 20_000


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`difference` is challenger less champion, in accuracy; `low`..`high` its interval (one-sided each)."""

    outcome: Outcome
    n: int
    won: int  # images that only the challenger gets right
    lost: int  # images that only the champion gets right
    champion_accuracy: float
    challenger_accuracy: float
    difference: float
    low: float
    high: float
    p_value: float  # exact McNemar, two-sided

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    champion_right: np.ndarray, challenger_right: np.ndarray, *, margin: float, confidence: float, min_images: int
) -> Comparison:
    """Judges two classifiers by their answers to the same images.

    *better*: the exact McNemar test (two-sided, at 1 - confidence) finds the challenger ahead. *worse*: it finds it
    behind. *equivalent*: the one-sided lower bound of the difference, by a paired bootstrap, lies above -margin
    (non-inferiority). Otherwise, and for fewer than `min_images`, there is *not enough data*.

    Args:
        champion_right, challenger_right: bool [N].
        margin: in accuracy, 0.02 for two points.
        confidence: one-sided, 0.95.
    """
    n = len(champion_right)
    won = int((challenger_right & ~champion_right).sum())
    lost = int((champion_right & ~challenger_right).sum())
    low, high = bootstrap_bounds(won, lost, n, confidence)
    p_value = mcnemar_p(won, lost)
    outcome: Outcome = "not-enough-data"
    if n >= min_images:
        if p_value <= 1 - confidence:
            outcome = "better" if won > lost else "worse"
        elif low > -margin:
            outcome = "equivalent"
    return Comparison(
        outcome=outcome,
        n=n,
        won=won,
        lost=lost,
        champion_accuracy=float(champion_right.mean()) if n else float("nan"),
        challenger_accuracy=float(challenger_right.mean()) if n else float("nan"),
        difference=(won - lost) / n if n else float("nan"),
        low=low,
        high=high,
        p_value=p_value,
    )


def mcnemar_p(won: int, lost: int) -> float:
    """Two-sided p-value of the exact McNemar test: a fair coin over the images that only one gets right."""
    from scipy.stats import binomtest

    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def bootstrap_bounds(won: int, lost: int, n: int, confidence: float, seed: int = 0) -> tuple[float, float]:
    """One-sided lower and upper bounds of (won - lost) / n, by resampling the test images.

    Resampling images is drawing the counts (won, lost, neither) from a multinomial, so one draw stands for one
    resampled test set.
    """
    if n == 0:
        return -1.0, 1.0
    shares = np.array([won, lost, n - won - lost]) / n
    draws = np.random.default_rng(seed).multinomial(n, shares, size=RESAMPLES)
    differences = (draws[:, 0] - draws[:, 1]) / n
    low, high = np.quantile(differences, [1 - confidence, confidence])
    return float(low), float(high)
