"""Temperatures, and what they are worth on rows that they were not fitted on."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.networks.calibration import cross_fitted, fit_temperature, uncalibrated


@pytest.fixture
def boastful() -> tuple[np.ndarray, np.ndarray]:
    """Logits three times too large, and outcomes, of 600 rows."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(600, 3)) * 2
    targets = (_softmax(logits).cumsum(axis=1) > rng.random((600, 1))).argmax(axis=1)
    return logits * 3, targets


def test_what_was_said_before_is_found_again(boastful: tuple[np.ndarray, np.ndarray]):
    logits, _ = boastful
    np.testing.assert_allclose(uncalibrated(_softmax(logits / 2.5), 2.5), _softmax(logits), atol=1e-9)


def test_a_row_is_scored_under_a_temperature_of_other_rows(boastful: tuple[np.ndarray, np.ndarray]):
    logits, targets = boastful
    own = fit_temperature(logits, targets)
    scores = cross_fitted(_softmax(logits / own), targets, own)
    others = np.arange(600) % 5 != 2
    expected = _softmax(logits[7] / fit_temperature(logits[others], targets[others]))
    np.testing.assert_allclose(scores[7], expected, atol=1e-6)
    assert not np.allclose(scores, _softmax(logits / own), atol=1e-6)


def test_an_outcome_has_no_part_in_its_own_rows_score(boastful: tuple[np.ndarray, np.ndarray]):
    logits, targets = boastful
    other = targets.copy()
    other[7] = (other[7] + 1) % 3
    said = _softmax(logits / 3)
    assert (cross_fitted(said, targets, 3.0)[7] == cross_fitted(said, other, 3.0)[7]).all()


def _softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
