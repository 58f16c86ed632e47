"""Metrics against scikit-learn and worked examples."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from tasks.evaluate import metrics


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 4, 200)
    probabilities = rng.dirichlet(np.ones(4), 200)
    probabilities[np.arange(200), targets] += 0.5
    return targets, probabilities / probabilities.sum(axis=1, keepdims=True)


def test_they_are_scikit_learns(answers: tuple[np.ndarray, np.ndarray]):
    targets, probabilities = answers
    predicted = probabilities.argmax(axis=1)
    found = metrics.summary_metrics(targets, probabilities)
    assert found["accuracy"] == pytest.approx(accuracy_score(targets, predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(targets, predicted, average="macro"))


def test_calibration_error_by_hand():
    # Two bins: 0.9 sure and right half the time (gap 0.4), 0.6 sure and always right (gap 0.4).
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert metrics.calibration_error(np.array([0, 1, 0, 0]), probabilities) == pytest.approx(0.4)


def test_a_class_that_never_occurs_has_no_recall():
    row = metrics.class_metrics(np.array([0, 0]), np.array([0, 1]), 3)[2]
    assert row["n"] == 0
    assert np.isnan(row["recall"])


def test_the_interval_of_macro_f1_holds_it(answers: tuple[np.ndarray, np.ndarray]):
    targets, probabilities = answers
    predicted = probabilities.argmax(axis=1)
    low, high = metrics.macro_f1_interval(targets, predicted, 4)
    assert low < metrics.macro_f1(targets, predicted, 4) < high
    assert 0.08 < high - low < 0.2  # about that of accuracy with 200 images


def test_the_interval_of_a_calibration_error_covers_the_truth_where_the_figure_itself_does_not():
    rng, covered = np.random.default_rng(2), 0
    for _ in range(40):
        sure = rng.uniform(0.5, 1, 300)
        probabilities = np.stack([sure, 1 - sure], axis=1)
        targets = (rng.random(300) >= sure).astype(int)  # perfectly calibrated: the true error is 0
        assert metrics.calibration_error(targets, probabilities) > 0.01
        covered += metrics.calibration_error_interval(targets, probabilities)[0] == 0
    assert covered >= 36


def test_chance_alone_makes_a_calibration_error_that_falls_with_the_images():
    sure = np.full(2000, 0.8)
    probabilities = np.stack([sure, 1 - sure], axis=1)
    # One bin: the mean distance of a share of 2,000 coins from 0.8 is sqrt(2 / pi) standard errors.
    expected = np.sqrt(2 / np.pi * 0.8 * 0.2 / 2000)
    assert metrics.chance_calibration_error(probabilities) == pytest.approx(expected, rel=0.15)
