import numpy as np
import pytest

from tasks.artifacts import SnapshotRef
from tasks.assignments import read_assignments, write_assignments
from tasks.features import append_rows
from tasks.tables import SNAPSHOT, write_table
from tasks.validate.review import review_snapshot
from tasks.validate.suspects import out_of_fold_probabilities, rank_suspects
from tests.photos import encoded, photo
from tests.runs import make_run

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
    order, suggested, suspect = rank_suspects(probabilities, wrong)
    assert np.isin(rows, order[: len(wrong) // 10]).mean() >= 0.7
    assert (suggested[rows] == targets[rows]).mean() >= 0.9
    assert suspect[rows].mean() > 0.7
    assert suspect.sum() < 3 * len(rows)


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
    order, _, _ = rank_suspects(out_of_fold_probabilities(twice, labels, groups, CLASSES), labels)
    assert np.isin(rows, order[: len(labels) // 8]).mean() >= 0.7


def test_a_class_of_three_is_no_obstacle(clusters):
    features, targets = clusters
    few = np.flatnonzero((targets > 0) | (np.arange(len(targets)) < 3))
    probabilities = out_of_fold_probabilities(features[few], targets[few], few, CLASSES)
    assert np.isfinite(probabilities).all()


def test_the_review_names_suspects_and_adds_to_the_findings(tmp_path, clusters):
    features, targets = clusters
    wrong, rows = flipped(targets)
    names = ("ant", "bee", "cat", "dog")
    run = make_run(tmp_path / "w", "s")
    table = SNAPSHOT.empty_table().to_pandas().reindex(range(len(wrong)))
    table[["copies", "size_bytes", "width_px", "height_px"]] = 1
    table = table.assign(
        sha256=[f"{n:064x}" for n in range(len(wrong))],
        label=[names[k] for k in wrong],
        split="train",
        path=[f"{n}.jpg" for n in range(len(wrong))],
        uri="u",
        group=[f"{n:064x}" for n in range(len(wrong))],
    )
    write_table(run.workspace, "snapshots/s.parquet", table, SNAPSHOT)
    append_rows(run.workspace, "recipe", table["sha256"].tolist(), [0] * len(table), features)
    snapshot = SnapshotRef(
        id="s", table_path="snapshots/s.parquet", labels=names, images=len(table), new=0, quarantined=0
    )
    count = review_snapshot(run, snapshot, "recipe")
    assert review_snapshot(run, snapshot, "recipe") == count
    suspects = run.workspace.read_json(run.path("suspects.json"))
    assert len(suspects) == count
    true = {f"{row}.jpg": names[targets[row]] for row in rows}
    assert suspects[0]["suggested"] == true[suspects[0]["path"]]
    assert suspects[0]["probability"] < suspects[0]["suggested_probability"]
    [finding] = [
        f for f in run.workspace.read_json(run.path("validation.json")) if f["expectation"] == "label-suspects"
    ]
    assert (finding["severity"], finding["unexpected_count"]) == ("warn", count)


def test_copies_that_only_features_show_join_one_group(tmp_path):
    picture = photo(1, size=(320, 240))
    contents = [encoded(picture), encoded(picture, quality=60), encoded(photo(2, size=(320, 240)))]
    paths = [tmp_path / f"{n}.jpg" for n in range(3)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    digests = list("abc")
    run = make_run(tmp_path / "w", "s")
    table = SNAPSHOT.empty_table().to_pandas().reindex(range(3))
    table[["copies", "size_bytes", "width_px", "height_px"]] = 1
    table = table.assign(sha256=digests, label=["x", "x", "y"], split=["train", "test", "train"], group=digests)
    table = table.assign(path=[path.name for path in paths], uri=[str(path) for path in paths])
    write_table(run.workspace, "snapshots/s.parquet", table, SNAPSHOT)
    write_assignments(run, table[["sha256", "split", "group"]].assign(run_id=run.run_id))
    features = np.array([[1, 0, 0.1], [1, 0, 0], [0.9, 0.1, 0]], np.float16)  # like looks, and only two are copies
    append_rows(run.workspace, "recipe", digests, [0, 0, 0], features)
    review_snapshot(
        run,
        SnapshotRef(id="s", table_path="snapshots/s.parquet", labels=("x", "y"), images=3, new=3, quarantined=0),
        "recipe",
    )
    assert list(read_assignments(run)["group"]) == ["a", "a", "c"]
    [finding] = [f for f in run.workspace.read_json(run.path("validation.json")) if f["column"] == "group"]
    assert (finding["observed"], finding["examples"]) == (1, [{"path": "1.jpg", "value": "test"}])
