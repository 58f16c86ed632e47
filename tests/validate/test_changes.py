import numpy as np
import pandas as pd
import pytest

from tasks.errors import InvalidDataError
from tasks.ingest.catalogue import build_catalogue
from tasks.modality.kinds import KINDS
from tasks.storage.tables import read_table
from tasks.validate.changes import champion_snapshot, champion_snapshot_id, describe_changes
from tasks.validate.validation import judge_metrics, validate
from tests.photos import class_folders
from tests.runs import keep_snapshot, make_run

BRIGHTNESS = {"cat": 0.3, "dog": 0.6}


def rows(counts, start=0, darkened_by=0.0, seed=0):
    """A catalogue's columns for `counts[label]` images, numbered from `start`; dogs are brighter than cats."""
    labels = [label for label, count in counts.items() for _ in range(count)]
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "sha256": [f"{start + n:064x}" for n in range(len(labels))],
            "label": labels,
            "brightness": rng.normal([BRIGHTNESS.get(label, 0.5) - darkened_by for label in labels], 0.1),
            "contrast": rng.normal(0.2, 0.02, len(labels)),
            "sharpness": rng.normal(500, 50, len(labels)),
            "width_px": 400,
            "height_px": rng.integers(300, 400, len(labels)),
        }
    )


def failed(tmp_path, before, now):
    findings = judge_metrics(make_run(tmp_path / "w", "s"), describe_changes(before, now, KINDS["image"]))
    return {finding.expectation: finding for finding in findings if not finding.success}


def test_more_of_the_same_is_no_finding(tmp_path):
    before = rows({"cat": 200, "dog": 200})
    assert failed(tmp_path, before, pd.concat([before, rows({"cat": 50, "dog": 50}, start=1000, seed=1)])) == {}


def test_nothing_new_is_said_and_does_not_stop(tmp_path):
    before = rows({"cat": 20, "dog": 20})
    assert {name: finding.severity for name, finding in failed(tmp_path, before, before).items()} == {
        "batch-not-empty": "warn"
    }


@pytest.mark.parametrize(
    ("now", "name", "observed"),
    [
        (rows({"cat": 50, "dog": 400}), "batch-not-a-flood", 10.25),
        (rows({"cat": 10, "dog": 5}), "source-still-there", 0.625),
    ],
)
def test_a_flood_and_a_vanished_source_stop(tmp_path, now, name, observed):
    finding = failed(tmp_path, rows({"cat": 20, "dog": 20}), now)[name]
    assert (finding.severity, finding.observed) == ("stop", observed)


def test_classes_that_come_and_go_are_named(tmp_path):
    before = rows({"cat": 20, "dog": 20, "eel": 20})
    now = pd.concat([before[before["label"] != "eel"], rows({"fox": 20}, start=1000)])
    found = failed(tmp_path, before, now)
    assert found["classes-added"].observed == "1 (fox)"
    assert found["classes-removed"].observed == "1 (eel)"
    assert "classes-renamed" not in found


def test_a_renamed_class_is_recognised_by_its_images(tmp_path):
    before = rows({"cat": 20, "dog": 20})
    now = before.assign(label=before["label"].replace({"dog": "hound"}))
    now.loc[0, "label"] = "hound"
    found = failed(tmp_path, before, now)
    assert found["classes-renamed"].observed == '1 (dog = "hound")'
    assert "validate.rename" in found["classes-renamed"].note
    assert found["images-relabelled"].observed == 1


def test_a_delivery_of_one_class_is_no_drift(tmp_path):
    before = rows({"cat": 200, "dog": 200})
    assert failed(tmp_path, before, pd.concat([before, rows({"dog": 80}, start=1000, seed=1)])) == {}


@pytest.mark.parametrize("counts", [{"cat": 50, "dog": 50}, {"cat": 90, "dog": 10}, {"dog": 80}])
def test_a_darkened_delivery_is_drift_of_its_brightness_alone(tmp_path, counts):
    before = rows({"cat": 200, "dog": 200})
    found = failed(tmp_path, before, pd.concat([before, rows(counts, start=1000, darkened_by=0.2, seed=1)]))
    assert set(found) == {"brightness-drift"}
    assert found["brightness-drift"].observed == pytest.approx(0.68, abs=0.15)  # of a shift by 2 sd


def test_the_label_mix_is_reported_apart(tmp_path):
    before = rows({"cat": 200, "dog": 200, "eel": 100})
    metrics = describe_changes(
        before, pd.concat([before, rows({"cat": 15, "dog": 45, "fox": 10}, start=1000)]), KINDS["image"]
    )
    assert metrics["label_mix_distance"] == pytest.approx(0.35)  # shares 0.25, 0.75, 0 instead of 0.4, 0.4, 0.2
    [finding] = [
        each for each in judge_metrics(make_run(tmp_path / "w", "s"), metrics) if each.expectation == "label-mix"
    ]
    assert (finding.success, finding.observed) == (True, "0.35 (dog: 75%, before 40%)")


def test_classes_that_the_champion_hardly_knows_are_left_out():
    before = rows({"cat": 200, "dog": 9})
    unknown = rows({"dog": 60, "eel": 60}, start=1000, darkened_by=0.2)
    alone = describe_changes(before, pd.concat([before, unknown]), KINDS["image"])
    assert (alone["brightness_drift"], alone["side_drift_p_value"]) == (None, None)
    with_cats = describe_changes(
        before, pd.concat([before, unknown, rows({"cat": 60}, start=2000, seed=1)]), KINDS["image"]
    )
    assert with_cats["brightness_drift"] < 0.3


def test_a_handful_of_images_is_no_drift(tmp_path):
    before = rows({"cat": 200, "dog": 200})
    assert failed(tmp_path, before, pd.concat([before, rows({"cat": 9}, 1000, darkened_by=0.2)])) == {}


def publish_champion(run, table, version=1, **lineage):
    before = keep_snapshot(run, table.assign(group=table["sha256"], split="train"))
    manifest = {"run_id": f"run-{version}", "lineage": {"snapshot": before.id, **lineage}}
    run.workspace.write_json(f"models/shapes/{version}/manifest.json", manifest)
    return before.id


def test_what_an_interrupted_run_published_is_its_own_and_not_what_it_is_compared_with(tmp_path):
    run = make_run(tmp_path / "w", class_folders(tmp_path / "photos", {"cat": 6, "dog": 6}))
    table = read_table(run.workspace, build_catalogue(run).table_path)
    first = publish_champion(run, table)
    run.workspace.write_json("artifacts/validate/k/artifact.json", {"record": {"listing": "ours"}})
    second = publish_champion(run, table[:9], version=2, artifacts={"validate": "artifacts/validate/k"})
    assert first != second
    assert champion_snapshot_id(run, "ours") == first  # no summary of that run: it was interrupted
    assert champion_snapshot_id(run, "another") == second
    run.workspace.write_json("runs/run-2/summary.json", {})
    assert champion_snapshot_id(run, "ours") == second


def test_the_champion_s_snapshot_is_what_a_source_is_compared_with(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 6, "dog": 6})
    run = make_run(tmp_path / "w", source, config={"validate": {"rename": {"hound": "dog"}, "max_growth": 0.4}})
    assert champion_snapshot(run, "") is None
    catalogue = read_table(run.workspace, build_catalogue(run).table_path)
    publish_champion(run, catalogue.assign(label=catalogue["label"].replace({"dog": "hound"})))
    class_folders(source, {"cat": 3, "eel": 5}, start=50)
    with pytest.raises(InvalidDataError, match=r"batch-not-a-flood .* expected at most 0.4; found 0.6667"):
        validate(run, build_catalogue(run))
    findings = {item["expectation"]: item for item in run.workspace.read_json(run.path("validation.json"))}
    assert findings["classes-added"]["observed"] == "1 (eel)"
    assert findings["classes-removed"]["success"]
