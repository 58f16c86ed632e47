"""The paired comparison of champion and challenger, on the same test images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from tasks.records import CrossFitted

Outcome = Literal["better", "equivalent", "worse", "not-enough-data"]
RESAMPLES = 20_000
CROSS_FITTED_VARIANCE = 1 + CrossFitted.FOLDS / (CrossFitted.FOLDS - 1)
NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`difference` is the challenger's accuracy less the champion's; `low`..`high` its interval (one-sided each)."""

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


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The challenger's accuracy less the champion's, on `n` images, and its standard error."""

    n: int
    difference: float
    error: float

    def low(self, confidence: float) -> float:
        """The one-sided lower bound."""
        return self.difference - NORMAL.inv_cdf(confidence) * self.error


@dataclass(frozen=True, kw_only=True)
class ClassComparison:
    """The same for the `n` test images of one class; `p_value` is that of a regression, corrected for all classes."""

    label: str
    n: int
    won: int
    lost: int
    p_value: float


def compare(
    champion_right: np.ndarray, challenger_right: np.ndarray, *, margin: float, confidence: float, min_images: int
) -> Comparison:
    """Compares two classifiers by their predictions for the same images, see `outcome_of`.

    Args:
        champion_right, challenger_right: bool [N].
        margin: in accuracy, 0.02 for two points.
        confidence: one-sided, 0.95.
    """
    n = len(champion_right)
    won = int((challenger_right & ~champion_right).sum())
    lost = int((champion_right & ~challenger_right).sum())
    low, high = bootstrap_bounds(won, lost, n, confidence)
    return Comparison(
        outcome=outcome_of(won, lost, n, margin=margin, confidence=confidence, min_images=min_images),
        n=n,
        won=won,
        lost=lost,
        champion_accuracy=float(champion_right.mean()) if n else float("nan"),
        challenger_accuracy=float(challenger_right.mean()) if n else float("nan"),
        difference=(won - lost) / n if n else float("nan"),
        low=low,
        high=high,
        p_value=mcnemar_p(won, lost),
    )


def outcome_of(won: int, lost: int, n: int, *, margin: float, confidence: float, min_images: int) -> Outcome:
    """The outcome, which depends on three counts only.

    *better*: the exact McNemar test (two-sided, at 1 - confidence) finds the challenger better. *worse*: it finds it
    worse. *equivalent*: the one-sided lower bound of the difference lies above -margin (non-inferiority). Otherwise,
    and for fewer than `min_images`, there is *not enough data*.
    """
    if n < min_images:
        return "not-enough-data"
    if mcnemar_p(won, lost) <= 1 - confidence:
        return "better" if won > lost else "worse"
    low, _ = bootstrap_bounds(won, lost, n, confidence)
    return "equivalent" if low > -margin else "not-enough-data"


@cache
def mcnemar_p(won: int, lost: int) -> float:
    """Two-sided p-value of the exact McNemar test: a fair coin over the images that only one gets right."""
    from scipy.stats import binomtest

    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


@cache
def bootstrap_bounds(won: int, lost: int, n: int, confidence: float, seed: int = 0) -> tuple[float, float]:
    """One-sided lower and upper bounds of (won - lost) / n, by a paired bootstrap over the test images.

    Resampling images is the same as drawing the counts (won, lost, neither) from a multinomial distribution. One won
    and one lost image are added to the sample (Bonett & Price 2012): where few or none were lost, a plain bootstrap
    assumes that none ever is, and would pass a challenger that is 2 points worse up to one time in three
    (`expectations/README.md` has the measurements).
    """
    if n == 0:
        return -1.0, 1.0
    shares = np.array([won + 1, lost + 1, n - won - lost]) / (n + 2)
    draws = np.random.default_rng(seed).multinomial(n, shares, size=RESAMPLES)
    low, high = np.quantile(draws[:, 0] - draws[:, 1], [1 - confidence, confidence]) / n
    return float(low), float(high)


def interval_of(differences: np.ndarray, groups: np.ndarray, cross_fitted: np.ndarray) -> Interval:
    """The mean of `differences` (-1, 0 or 1 for each image) and its standard error, clustered by group.

    One won and one lost image are added to the squares, as for the test split alone (`comparison.bootstrap_bounds`).
    """
    n = len(differences)
    if n == 0:
        return Interval(n=0, difference=0.0, error=1.0)
    mean = differences.mean()
    weights = np.where(cross_fitted, math.sqrt(CROSS_FITTED_VARIANCE), 1.0)
    _, members = np.unique(groups, return_inverse=True)
    by_group = np.bincount(members, weights=weights * (differences - mean))
    return Interval(n=n, difference=float(mean), error=float(math.sqrt((by_group**2).sum() + 2) / n))


def outcome_by(images: Interval, *, margin: float, confidence: float, min_images: int) -> Outcome:
    """As `outcome_of`, by normal approximation: there are hundreds of images."""
    two_sided = NORMAL.inv_cdf((1 + confidence) / 2) * images.error
    if images.n < min_images:
        return "not-enough-data"
    if abs(images.difference) > two_sided:
        return "better" if images.difference > 0 else "worse"
    enough = images.low(confidence) > -margin
    return "equivalent" if enough else "not-enough-data"


def agree(one: Interval, other: Interval, confidence: float) -> bool:
    """Whether chance explains that two sets of images give different answers."""
    error = math.hypot(one.error, other.error)
    return abs(one.difference - other.difference) <= NORMAL.inv_cdf((1 + confidence) / 2) * error


def compare_classes(
    labels: Sequence[str], champion_right: np.ndarray, challenger_right: np.ndarray
) -> list[ClassComparison]:
    """Whether classes got worse: for each, an exact one-sided McNemar test over the images of the class.

    The p-values are corrected by Holm (1979): the probability that any class that did not get worse is reported is at
    most the level that they are compared with.

    Args:
        labels: the true class of each image.
        champion_right, challenger_right: bool [N].
    """
    from scipy.stats import binom

    of = np.asarray(labels, object)
    rows = []
    for label in sorted(set(labels)):
        champion, challenger = champion_right[of == label], challenger_right[of == label]
        won, lost = int((challenger & ~champion).sum()), int((champion & ~challenger).sum())
        rows.append((float(binom.sf(lost - 1, won + lost, 0.5)), label, len(champion), won, lost))
    rows.sort()
    largest, found = 0.0, []
    for rank, (p_value, label, n, won, lost) in enumerate(rows):
        largest = max(largest, min(1.0, p_value * (len(rows) - rank)))
        found.append(ClassComparison(label=label, n=n, won=won, lost=lost, p_value=largest))
    return found
