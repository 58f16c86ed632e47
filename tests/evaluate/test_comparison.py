"""Champion against challenger: the four outcomes, and what they cost in error."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest, multinomial

from tasks.evaluate.comparison import bootstrap_bounds, compare, compare_classes, mcnemar_p, outcome_of


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


@pytest.mark.parametrize("n", [50, 100, 200, 1000])
@pytest.mark.parametrize("disagreement", [0.02, 0.03, 0.06])
def test_a_challenger_worse_by_the_margin_is_promoted_at_most_one_time_in_twenty(n: int, disagreement: float):
    """Summed over all outcomes, not drawn: the multinomial's probability of each (won, lost)."""
    chances = [disagreement / 2 - 0.01, disagreement / 2 + 0.01, 1 - disagreement]
    likely = range(int(binom.ppf(1 - 1e-6, n, disagreement)) + 1)
    promoted = sum(
        multinomial.pmf([won, lost, n - won - lost], n, chances)
        for won in likely
        for lost in likely
        if multinomial.pmf([won, lost, n - won - lost], n, chances) > 1e-6
        and outcome_of(won, lost, n, margin=0.02, confidence=0.95, min_images=15) in ("better", "equivalent")
    )
    assert promoted <= 0.05


def test_a_class_that_got_worse_is_found_and_chance_among_many_classes_is_not():
    champion, challenger = np.ones(400, bool), np.ones(400, bool)
    challenger[:9] = False  # nine of the first class's forty
    labels = [f"class {index // 40}" for index in range(400)]
    first, *rest = compare_classes(labels, champion, challenger)
    assert (first.label, first.won, first.lost) == ("class 0", 0, 9)
    assert first.p_value == pytest.approx(10 * 0.5**9)  # Holm: the smallest of ten
    assert all(row.p_value == 1 for row in rest)


def test_classes_of_equal_models_are_rarely_called_worse():
    rng = np.random.default_rng(9)
    labels = [f"class {index % 10}" for index in range(400)]
    draws = ((rng.random(400) < 0.85, rng.random(400) < 0.85) for _ in range(200))
    named = sum(compare_classes(labels, a, b)[0].p_value <= 0.05 for a, b in draws)
    assert named / 200 <= 0.05
