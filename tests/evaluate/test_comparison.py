"""Champion against challenger: the four outcomes, and what they cost in error."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from tasks.evaluate.comparison import bootstrap_bounds, compare, mcnemar_p


def answers(n: int, won: int, lost: int, wrong: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Champion and challenger, bool [n]: `won` only the challenger gets right, `lost` only the champion."""
    champion = np.ones(n, bool)
    challenger = np.ones(n, bool)
    champion[:won] = False
    challenger[won : won + lost] = False
    champion[won + lost : won + lost + wrong] = challenger[won + lost : won + lost + wrong] = False
    return champion, challenger


def outcome(n: int, won: int, lost: int, min_images: int = 15) -> str:
    return compare(*answers(n, won, lost), margin=0.02, confidence=0.95, min_images=min_images).outcome


def test_the_four_outcomes():
    assert outcome(1000, 60, 20) == "better"
    assert outcome(1000, 20, 60) == "worse"
    assert outcome(1000, 20, 18) == "equivalent"
    assert outcome(100, 5, 5) == "not-enough-data"  # two points can't be ruled out with 100 images
    assert outcome(10, 0, 0) == "not-enough-data"
    assert outcome(1000, 0, 0) == "equivalent"


def test_mcnemar_is_the_exact_binomial_test():
    assert mcnemar_p(9, 2) == pytest.approx(binomtest(9, 11).pvalue)
    assert mcnemar_p(0, 0) == 1.0


def test_bootstrap_bounds_cover_what_the_normal_approximation_does():
    low, high = bootstrap_bounds(40, 30, 1000, 0.95)
    spread = np.sqrt(70 / 1000 - 0.01**2) / np.sqrt(1000)
    assert low == pytest.approx(0.01 - 1.645 * spread, abs=1.5e-3)
    assert high == pytest.approx(0.01 + 1.645 * spread, abs=1.5e-3)


def test_equal_models_are_rarely_called_better():
    rng = np.random.default_rng(5)
    better = sum(
        compare(a, b, margin=0.02, confidence=0.95, min_images=15).outcome == "better"
        for a, b in ((rng.random(300) < 0.9, rng.random(300) < 0.9) for _ in range(300))
    )
    assert better / 300 <= 0.05
