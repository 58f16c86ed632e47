"""What the review makes of stored features, in the run's folder and in the assignments."""

import json
from pathlib import Path

import numpy as np
import pytest

import expectations
from tasks.errors import InvalidDataError
from tasks.records import Features
from tasks.storage.assignments import read_assignments, write_assignments
from tasks.storage.feature_store import append_rows
from tasks.storage.tables import SNAPSHOT
from tasks.validate.review import review_snapshot
from tests.photos import encoded, photo
from tests.runs import keep_snapshot, make_extractor_record, make_run

NAMES = ("ant", "bee", "cat", "dog")
EXTRACTOR = make_extractor_record(key="recipe")


def features_of(run, features, labels, **columns):
    """Stores a snapshot of images, and a row of features for each; the split is `train` unless given."""
    table = SNAPSHOT.empty_table().to_pandas().reindex(range(len(labels)))
    table[["copies", "size_bytes", "width_px", "height_px"]] = 1
    digests = [f"{n:064x}" for n in range(len(labels))]
    table = table.assign(sha256=digests, label=labels, split="train", uri="u", group=digests)
    table = table.assign(path=[f"{n}.jpg" for n in range(len(labels))]).assign(**columns)
    append_rows(run.workspace, "recipe", table["sha256"].tolist(), [0] * len(table), features)
    return table, Features(snapshot=keep_snapshot(run, table), extractor=EXTRACTOR, views=0, embedded=0)


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
    _, stored = features_of(run, clusters(np.random.default_rng(1), targets), [NAMES[k] for k in wrong])
    count = review_snapshot(run, stored).suspects
    assert review_snapshot(run, stored).suspects == count
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
    table, stored = features_of(
        run,
        features,
        ["x", "x", "y"],
        sha256=digests,
        group=digests,
        split=["train", "test", "train"],
        uri=[str(path) for path in paths],
    )
    write_assignments(run, table[["sha256", "split", "group"]].assign(run_id=stored.snapshot.catalogue.work))
    review_snapshot(run, stored)
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
    table, stored = features_of(run, features, [NAMES[k] for k in targets])
    before = keep_snapshot(run, table[:100])
    run.workspace.write_json("models/shapes/1/manifest.json", {"lineage": {"snapshot": before.id}})
    if severity == "stop":
        with pytest.raises(InvalidDataError, match=r"embedding-drift .* expected at least 0.005; found 0.001"):
            review_snapshot(run, stored)
    else:
        review_snapshot(run, stored)
    assert "features" in (tmp_path / "w/runs/r1/great_expectations.json").read_text()
