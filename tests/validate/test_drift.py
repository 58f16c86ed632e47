import numpy as np
import pandas as pd
import pytest

from tasks.validate.drift import draw_sample, embedding_p_value, property_drift

OLD = pd.Series(["cat"] * 300 + ["dog"] * 300)
CENTRES = {"cat": 0.0, "dog": 1.0}


def features(labels, seed, shift=0.0):
    """One cluster a class, float64 [N, 64]; `shift` moves all of them."""
    centres = np.array([CENTRES[label] for label in labels])
    return np.random.default_rng(seed).normal(centres[:, None] + shift, 1, (len(labels), 64))


def p_value(old_labels, new_labels, shift=0.0):
    sample = draw_sample(old_labels, new_labels)
    assert sample is not None
    old, new = features(old_labels, 1), features(new_labels, 2, shift)
    return embedding_p_value(np.concatenate([old[sample.old], new[sample.new]]), sample)


@pytest.mark.parametrize("labels", [["cat"] * 50 + ["dog"] * 50, ["cat"] * 95 + ["dog"] * 5, ["dog"] * 100])
def test_features_that_moved_within_classes_are_told_from_another_label_mix(labels):
    assert p_value(OLD, pd.Series(labels)) > 0.01
    assert p_value(OLD, pd.Series(labels), shift=0.4) == pytest.approx(0.001)


def test_images_under_another_class_s_label_are_drift():
    sample = draw_sample(OLD, pd.Series(["dog"] * 100))
    assert sample is not None
    cats = features(["cat"] * 100, 2)
    assert embedding_p_value(np.concatenate([features(OLD, 1)[sample.old], cats[sample.new]]), sample) == 0.001


def test_old_images_have_the_label_mix_of_the_new_ones_and_so_does_each_permutation():
    new = pd.Series(["cat"] * 90 + ["dog"] * 10 + ["fox"] * 50)
    sample = draw_sample(OLD, new)
    assert sample is not None
    assert sorted(new.iloc[sample.new].unique()) == ["cat", "dog"]
    cats = np.concatenate([OLD.iloc[sample.old], new.iloc[sample.new]]) == "cat"
    assert sample.weights[0, cats & (sample.weights[0] > 0)].sum() == pytest.approx(0.9)
    assert np.abs(sample.weights[:, cats].sum(axis=1)).max() < 1e-9
    assert np.abs(sample.weights[:, ~cats].sum(axis=1)).max() < 1e-9
    assert len(np.unique(sample.weights, axis=0)) == 1000


def test_the_draw_is_bounded_and_always_the_same():
    new = pd.Series(["cat"] * 5000)
    first, again = draw_sample(OLD, new), draw_sample(OLD, new)
    assert first is not None
    assert again is not None
    assert (len(first.new), len(first.old)) == (250, 300)
    assert np.array_equal(first.weights, again.weights)


@pytest.mark.parametrize(
    ("old", "new", "compared"),
    [
        ({"cat": 300}, {"cat": 38}, True),
        ({"cat": 300}, {"cat": 37}, False),
        ({"cat": 29}, {"cat": 1000}, False),  # few old images move a distance as much as few new ones
        ({"cat": 9}, {"cat": 100}, False),
        ({"cat": 300}, {"fox": 100}, False),
        ({}, {"cat": 100}, False),
    ],
)
def test_too_few_images_are_not_compared(old, new, compared):
    labels = (
        pd.Series([label for label, count in counts.items() for _ in range(count)], dtype=str) for counts in (old, new)
    )
    assert (draw_sample(*labels) is not None) == compared


def test_by_chance_a_p_value_is_as_often_small_as_it_says():
    rng = np.random.default_rng(0)
    old, p_values = pd.Series(["cat"] * 100 + ["dog"] * 100), []
    for size in range(60, 160):
        new = pd.Series(rng.choice(["cat", "dog"], size, p=[0.9, 0.1]))
        sample = draw_sample(old, new)
        assert sample is not None
        drift = property_drift(*(pd.Series(rng.normal(labels.map(CENTRES))) for labels in (old, new)), sample=sample)
        assert drift is not None
        p_values.append(drift[1])
    assert 10 <= sum(p <= 0.2 for p in p_values) <= 31  # 20 of 100 expected, 3 standard deviations are 12


def test_equal_values_are_no_distance_and_missing_ones_no_metric():
    new = pd.Series(["cat"] * 100)
    sample = draw_sample(OLD, new)
    assert sample is not None
    ones, none = pd.Series(np.ones(600)), pd.Series(np.full(100, np.nan))
    assert property_drift(ones, ones[:100], sample) == pytest.approx((0, 1))
    assert property_drift(ones, ones[:100] * 2, sample) == pytest.approx((1, 0.001))
    assert property_drift(ones, none, sample) is None
