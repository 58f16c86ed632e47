import numpy as np
import pytest

from tasks.validate.label_issues import FOLDS, LabelErrors, find_label_errors, out_of_fold_logits

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


def errors_of(features, targets, groups=None) -> LabelErrors:
    groups = np.arange(len(targets)) if groups is None else groups
    [logits] = out_of_fold_logits(features, targets, groups, CLASSES, [FOLDS - 1])
    return find_label_errors(logits, targets)


def test_flipped_labels_are_listed_and_the_right_one_is_suggested(clusters):
    features, targets = clusters
    wrong, rows = flipped(targets)
    errors = errors_of(features, wrong)
    assert np.isin(rows, np.argsort(-errors.wrong)[: len(wrong) // 10]).mean() >= 0.7
    assert (errors.suggested[rows] == targets[rows]).mean() >= 0.9
    assert np.isin(rows, errors.issues).mean() >= 0.6
    assert np.isin(errors.issues, rows).mean() >= 0.6


def test_the_share_of_wrong_labels_and_the_precision_of_the_list_are_estimated(clusters):
    features, targets = clusters
    wrong, rows = flipped(targets, share=0.1)
    errors = errors_of(features, wrong)
    assert errors.rate == pytest.approx(0.1, abs=0.05)
    precision = np.isin(errors.issues, rows).mean()
    assert errors.wrong[errors.issues].mean() == pytest.approx(precision, abs=0.2)


def test_hard_images_with_right_labels_are_no_issues():
    """A classifier that is wrong for every third image does not make every third label an issue."""
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(CLASSES), PER_CLASS)
    features = rng.normal(0, 1, (len(targets), WIDTH)) + rng.normal(0, 0.28, (CLASSES, WIDTH))[targets]
    [logits] = out_of_fold_logits(features, targets, np.arange(len(targets)), CLASSES, [FOLDS - 1])
    assert (logits.argmax(axis=1) != targets).mean() > 0.25
    assert len(find_label_errors(logits, targets).issues) <= 0.03 * len(targets)  # a third are errors


def test_predictions_are_of_unseen_images(clusters):
    features, targets = clusters
    noise = np.random.default_rng(4).normal(size=features.shape).astype(np.float16)
    probabilities = errors_of(noise, targets).probabilities
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(targets)), abs=1e-5)
    assert abs((probabilities.argmax(axis=1) == targets).mean() - 1 / CLASSES) < 0.12


def test_near_duplicates_do_not_vouch_for_each_other(clusters):
    features, targets = clusters
    wrong, rows = flipped(targets)
    twice, labels = np.concatenate([features, features[rows]]), np.concatenate([wrong, wrong[rows]])
    groups = np.concatenate([np.arange(len(wrong)), rows])
    errors = errors_of(twice, labels, groups)
    assert np.isin(rows, np.argsort(-errors.wrong)[: len(labels) // 8]).mean() >= 0.7


def test_a_class_of_three_is_no_obstacle(clusters):
    features, targets = clusters
    few = np.flatnonzero((targets > 0) | (np.arange(len(targets)) < 3))
    errors = errors_of(features[few], targets[few], few)
    assert np.isfinite(errors.wrong).all()
    assert np.isfinite(errors.probabilities).all()


def test_a_single_class_has_no_issues():
    assert len(find_label_errors(np.ones((20, 1)), np.zeros(20, int)).issues) == 0
