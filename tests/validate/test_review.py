"""What the review makes of stored features, in the run's folder and in the assignments."""

import json
from pathlib import Path

import numpy as np
import pytest

import expectations
from tasks.errors import InvalidDataError
from tasks.records import Features
from tasks.storage.assignments import read_assignments, write_assignments
from tasks.storage.corrections import Correction, decide
from tasks.storage.feature_store import append_rows
from tasks.storage.tables import snapshot_schema
from tasks.validate.review import review_snapshot, rules
from tests.photos import encoded, photo
from tests.runs import keep_snapshot, make_extractor_record, make_run

NAMES = ("ant", "bee", "cat", "dog")
EXTRACTOR = make_extractor_record(key="recipe")


def features_of(run, features, labels, **columns):
    """Stores a snapshot of images, and a row of features for each; the split is `train` unless given."""
    table = snapshot_schema("image").empty_table().to_pandas().reindex(range(len(labels)))
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


def test_a_label_that_a_person_confirmed_is_no_issue_any_more(tmp_path):
    targets = np.arange(240) % 4
    wrong = targets.copy()
    wrong[:12] = (wrong[:12] + 1) % 4
    run = make_run(tmp_path / "w", "s")
    _, stored = features_of(run, clusters(np.random.default_rng(1), targets), [NAMES[k] for k in wrong])
    before, issues = rules(run, stored), review_snapshot(run, stored).suspects
    first, second, *_ = run.workspace.read_json(run.path("suspects.json"))
    decide(run.workspace, Correction(sha256=first["sha256"], label=first["label"]))
    decide(run.workspace, Correction(sha256=second["sha256"], label="bee" if second["label"] != "bee" else "cat"))
    assert rules(run, stored) != before  # so it is reviewed again
    assert review_snapshot(run, stored).suspects == issues - 1
    for file in ("suspects.json", "review.json"):
        assert first["sha256"] not in json.dumps(run.workspace.read_json(run.path(file)))


def test_what_was_corrected_still_counts_as_evidence_that_labels_are_wrong(tmp_path):
    targets = np.arange(240) % 4
    rng = np.random.default_rng(1)
    blurred = clusters(rng, targets) + rng.normal(0, 1.5, (240, 48)).astype(np.float16)
    labels = [NAMES[k] for k in targets]
    wrong = [NAMES[(k + 1) % 4] for k in targets[:24]]
    labels[18:24] = wrong[18:]  # the others are corrected
    run = make_run(tmp_path / "w", "s")
    table, stored = features_of(run, blurred, labels)
    for sha256, label in zip(table["sha256"][:18], labels, strict=False):
        decide(run.workspace, Correction(sha256=sha256, label=label))

    def doubts() -> list[float]:
        review_snapshot(run, stored)
        return [card["wrong"] for card in run.workspace.read_json(run.path("review.json"))["cards"]]

    before, key = doubts(), rules(run, stored)
    changed = [{"sha256": table["sha256"][n], "given": wrong[n], "label": labels[n]} for n in range(18)]
    run.workspace.write_json(run.path("corrections.json"), {"changed": changed})
    assert rules(run, stored) != key
    after = doubts()
    assert len(after) > len(before)
    assert sum(after) > sum(before)


def test_cards_go_beyond_the_likely_issues_with_what_is_alike(tmp_path):
    targets = np.arange(240) % 4
    wrong = targets.copy()
    wrong[:12] = (wrong[:12] + 1) % 4
    run = make_run(tmp_path / "w", "s")
    rng = np.random.default_rng(1)
    blurred = clusters(rng, targets) + rng.normal(0, 1.5, (240, 48)).astype(np.float16)
    table, stored = features_of(run, blurred, [NAMES[k] for k in wrong])
    review_snapshot(run, stored)
    found = run.workspace.read_json(run.path("review.json"))
    cards = found["cards"]
    assert found["labels"] == list(NAMES)
    assert [card["wrong"] for card in cards] == sorted((card["wrong"] for card in cards), reverse=True)
    assert len(cards) > len(run.workspace.read_json(run.path("suspects.json")))
    true = dict(zip(table["sha256"], [NAMES[k] for k in targets], strict=True))
    nearest = cards[0]["neighbours"]
    assert len(nearest) == 6
    assert cards[0]["sha256"] not in [each["sha256"] for each in nearest]
    assert sum(true[each["sha256"]] == true[cards[0]["sha256"]] for each in nearest) >= 4


def test_of_copies_with_two_labels_one_is_a_card_that_shows_the_other(tmp_path):
    targets = np.arange(240) % 4
    run = make_run(tmp_path / "w", "s")
    labels = [NAMES[k] for k in targets]
    groups = [f"{n:064x}" for n in range(240)]
    groups[1] = groups[0]  # an ant and a bee
    _, stored = features_of(run, clusters(np.random.default_rng(1), targets), labels, group=groups)
    review_snapshot(run, stored)
    [card] = [each for each in run.workspace.read_json(run.path("review.json"))["cards"] if each["copies"]]
    [copy] = card["copies"]
    assert {card["path"], copy["path"]} == {"0.jpg", "1.jpg"}
    assert {card["label"], copy["label"]} == {"ant", "bee"}
    assert copy["sha256"] not in [each["sha256"] for each in card["neighbours"]]


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


def test_new_images_of_one_class_are_no_drift_of_what_the_network_sees(tmp_path):
    run = make_run(tmp_path / "w", "s")
    targets = np.concatenate([np.arange(240) % 4, np.full(60, 1)])  # 60 bees are new
    table, stored = features_of(run, clusters(np.random.default_rng(1), targets), [NAMES[k] for k in targets])
    before = keep_snapshot(run, table[:240])
    run.workspace.write_json("models/shapes/1/manifest.json", {"lineage": {"snapshot": before.id}})
    review_snapshot(run, stored)
    drift = findings(run)["embedding-drift"]
    assert drift["success"]
    assert drift["observed"] > 0.005
