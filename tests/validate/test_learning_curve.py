"""The learning curve tells data that would gain by more labels from data that would not."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.validate.label_issues import out_of_fold_logits
from tasks.validate.learning_curve import DOUBLINGS, learning_curve

LABELS = ("ant", "bee", "cat", "dog")


def curve(spread: float, per_class: int, width: int) -> dict:
    rng = np.random.default_rng(3)
    targets = np.arange(4 * per_class) % 4
    features = (rng.normal(0, 1, (len(targets), width)) + rng.normal(0, spread, (4, width))[targets]).astype(np.float16)
    logits = out_of_fold_logits(features, targets, np.arange(len(targets)), 4, DOUBLINGS)
    return learning_curve(logits, targets, LABELS)


def test_hard_classes_and_few_images_would_gain():
    found = curve(0.25, 60, 96)
    assert found["gain_interval"][0] > 0
    assert 0 < found["next_gain"] <= found["gain"]
    assert [point["images"] for point in found["points"]] == [48, 96, 192]
    assert [row["gain"] for row in found["classes"]] == sorted((row["gain"] for row in found["classes"]), reverse=True)


def test_where_all_is_right_already_nothing_is_to_be_gained():
    found = curve(3, 60, 16)
    assert found["points"][-1]["accuracy"] > 0.99
    assert found["next_gain"] < 0.005


def test_the_next_gain_follows_the_last_two():
    right = np.zeros((3, 1000), bool)
    right[0, :500] = right[1, :700] = right[2, :800] = True  # +0.2, then +0.1: half as much, so +0.05 is next
    logits = np.where(right[..., None], [1.0, 0.0], [0.0, 1.0])
    found = learning_curve(logits, np.zeros(1000, int), ("ant",))
    assert (found["gain"], found["next_gain"]) == pytest.approx((0.1, 0.05))
    assert found["gain_interval"] == pytest.approx([0.0814, 0.1186], abs=1e-3)


def test_fewer_images_are_a_part_of_the_more():
    targets = np.arange(80) % 4
    features = np.random.default_rng(0).normal(size=(80, 8)).astype(np.float16)
    both = out_of_fold_logits(features, targets, np.arange(80), 4, [1, 4])
    np.testing.assert_allclose(both[1], out_of_fold_logits(features, targets, np.arange(80), 4, [4])[0], atol=1e-5)
    assert not np.allclose(both[0], both[1])
