"""What the review makes of stored features, in the run's folder and in the assignments."""

import json
from pathlib import Path

import numpy as np
import pytest

import expectations
from tasks.errors import InvalidDataError
from tasks.records import Features, Snapshot
from tasks.storage.assignments import read_assignments, write_assignments
from tasks.storage.feature_store import append_rows
from tasks.storage.tables import SNAPSHOT, write_table
from tasks.validate.review import review_snapshot
from tests.photos import encoded, photo
from tests.runs import make_run

NAMES = ("ant", "bee", "cat", "dog")
STORED = Features(key="recipe", activations_key=None, views=0, embedded=0)


def snapshot_of(run, features, labels, **columns):
    """Stores a snapshot of images, and a row of features for each; the split is `train` unless given."""
    table = SNAPSHOT.empty_table().to_pandas().reindex(range(len(labels)))
    table[["copies", "size_bytes", "width_px", "height_px"]] = 1
    digests = [f"{n:064x}" for n in range(len(labels))]
    table = table.assign(sha256=digests, label=labels, split="train", uri="u", group=digests)
    table = table.assign(path=[f"{n}.jpg" for n in range(len(labels))]).assign(**columns)
    write_table(run.workspace, "snapshots/s.parquet", table, SNAPSHOT)
    append_rows(run.workspace, "recipe", table["sha256"].tolist(), [0] * len(table), features)
    names = tuple(sorted(set(labels)))
    return table, Snapshot(
        id="s", table_path="snapshots/s.parquet", labels=names, images=len(table), new=0, quarantined=0
    )


def clusters(rng, targets):
    centres = np.random.default_rng(0).normal(0, 0.9, (len(NAMES), 48))
    return (rng.normal(0, 1, (len(targets), 48)) + centres[targets]).astype(np.float16)


def findings(run):
    return {item["expectation"]: item for item in run.workspace.read_json(run.path("validation.json"))}


def test_it_names_suspects_and_adds_to_the_findings(tmp_path):
    targets = np.arange(240) % 4
    wrong = targets.copy()
    wrong[:12] = (wrong[:12] + 1) % 4
    run = make_run(tmp_path / "w", "s")
    _, snapshot = snapshot_of(run, clusters(np.random.default_rng(1), targets), [NAMES[k] for k in wrong])
    count = review_snapshot(run, snapshot, STORED)
    assert review_snapshot(run, snapshot, STORED) == count
    suspects = run.workspace.read_json(run.path("suspects.json"))
    assert len(suspects) == count
    true = {f"{row}.jpg": NAMES[targets[row]] for row in range(12)}
    assert suspects[0]["suggested"] == true[suspects[0]["path"]]
    assert suspects[0]["probability"] < suspects[0]["suggested_probability"]
    finding = findings(run)["label-suspects"]
    assert (finding["severity"], finding["unexpected_count"]) == ("warn", count)
    assert run.workspace.exists(run.path("data_docs/index.html"))


def test_copies_that_only_features_show_join_one_group(tmp_path):
    picture = photo(1, size=(320, 240))
    contents = [encoded(picture), encoded(picture, quality=60), encoded(photo(2, size=(320, 240)))]
    paths = [tmp_path / f"{n}.jpg" for n in range(3)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    features = np.array([[1, 0, 0.1], [1, 0, 0], [0.9, 0.1, 0]], np.float16)  # like looks, and only two are copies
    run = make_run(tmp_path / "w", "s")
    digests = list("abc")
    table, snapshot = snapshot_of(
        run,
        features,
        ["x", "x", "y"],
        sha256=digests,
        group=digests,
        split=["train", "test", "train"],
        uri=[str(path) for path in paths],
    )
    write_assignments(run, table[["sha256", "split", "group"]].assign(run_id=run.run_id))
    review_snapshot(run, snapshot, STORED)
    assert list(read_assignments(run)["group"]) == ["a", "a", "c"]
    assert findings(run)["copies-by-features"]["observed"] == 1


@pytest.mark.parametrize("severity", ["warn", "stop"])
def test_drift_of_what_the_network_sees_is_judged_by_the_suite(tmp_path, severity):
    suite = json.loads((Path(expectations.__file__).parent / "changes.json").read_text())
    [rule] = [rule for rule in suite["expectations"] if rule["meta"]["name"] == "embedding-drift"]
    rule["meta"]["severity"] = severity
    (tmp_path / "own.json").write_text(json.dumps(suite))
    run = make_run(tmp_path / "w", "s", config={"validate": {"changes_suite": str(tmp_path / "own.json")}})
    rng = np.random.default_rng(1)
    targets = np.arange(160) % 4
    features = clusters(rng, targets)
    features[100:] += 2  # the new images are of another kind
    table, snapshot = snapshot_of(run, features, [NAMES[k] for k in targets])
    write_table(run.workspace, "snapshots/before.parquet", table[:100], SNAPSHOT)
    run.workspace.write_json("models/shapes/1/manifest.json", {"lineage": {"snapshot": "before"}})
    if severity == "stop":
        with pytest.raises(InvalidDataError, match=r"embedding-drift .* expected at least 0.005; found 0.001"):
            review_snapshot(run, snapshot, STORED)
    else:
        review_snapshot(run, snapshot, STORED)
    assert "features" in (tmp_path / "w/runs/r1/great_expectations.json").read_text()
