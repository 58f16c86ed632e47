import numpy as np
import pytest

from tasks.validate.label_issues import out_of_fold_probabilities, rank_label_issues

CLASSES, PER_CLASS, WIDTH = 4, 60, 48


@pytest.fixture
def clusters():
    """Features of four classes that overlap a little, float16 [240, 48], and their true targets."""
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(CLASSES), PER_CLASS)
    features = rng.normal(0, 1, (len(targets), WIDTH)) + rng.normal(0, 0.9, (CLASSES, WIDTH))[targets]
    return features.astype(np.float16), targets


def flipped(targets, share=0.05):
    rng = np.random.default_rng(1)
    rows = rng.choice(len(targets), round(share * len(targets)), replace=False)
    wrong = targets.copy()
    wrong[rows] = (wrong[rows] + rng.integers(1, CLASSES, len(rows))) % CLASSES
    return wrong, rows


def test_flipped_labels_are_the_most_doubtful_and_the_right_one_is_suggested(clusters):
    features, targets = clusters
    wrong, rows = flipped(targets)
    probabilities = out_of_fold_probabilities(features, wrong, np.arange(len(wrong)), CLASSES)
    order, suggested, issue = rank_label_issues(probabilities, wrong)
    assert np.isin(rows, order[: len(wrong) // 10]).mean() >= 0.7
    assert (suggested[rows] == targets[rows]).mean() >= 0.9
    assert issue[rows].mean() > 0.7
    assert issue.sum() < 3 * len(rows)


def test_probabilities_are_of_unseen_images(clusters):
    features, targets = clusters
    noise = np.random.default_rng(4).normal(size=features.shape).astype(np.float16)
    probabilities = out_of_fold_probabilities(noise, targets, np.arange(len(targets)), CLASSES)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(targets)), abs=1e-5)
    assert abs((probabilities.argmax(axis=1) == targets).mean() - 1 / CLASSES) < 0.12


def test_near_duplicates_do_not_vouch_for_each_other(clusters):
    features, targets = clusters
    wrong, rows = flipped(targets)
    twice, labels = np.concatenate([features, features[rows]]), np.concatenate([wrong, wrong[rows]])
    groups = np.concatenate([np.arange(len(wrong)), rows])
    order, _, _ = rank_label_issues(out_of_fold_probabilities(twice, labels, groups, CLASSES), labels)
    assert np.isin(rows, order[: len(labels) // 8]).mean() >= 0.7


def test_a_class_of_three_is_no_obstacle(clusters):
    features, targets = clusters
    few = np.flatnonzero((targets > 0) | (np.arange(len(targets)) < 3))
    probabilities = out_of_fold_probabilities(features[few], targets[few], few, CLASSES)
    assert np.isfinite(probabilities).all()
