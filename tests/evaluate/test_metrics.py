"""Metrics against scikit-learn and worked examples."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

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
    assert (metrics.confusion_matrix(targets, predicted, 4) == confusion_matrix(targets, predicted)).all()


def test_calibration_error_by_hand():
    # Two bins: 0.9 sure and right half the time (gap 0.4), 0.6 sure and always right (gap 0.4).
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert metrics.calibration_error(np.array([0, 1, 0, 0]), probabilities) == pytest.approx(0.4)


def test_wilson_interval_from_the_literature():
    # Newcombe 1998, table I: 81 of 263 and 0 of 20.
    assert metrics.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert metrics.wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert metrics.wilson_interval(0, 0) == (0.0, 1.0)


def test_a_class_that_never_occurs_has_no_recall():
    row = metrics.class_metrics(np.array([0, 0]), np.array([0, 1]), 3)[2]
    assert row["n"] == 0
    assert np.isnan(row["recall"])
