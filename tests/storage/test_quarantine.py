import shutil

import pytest
from PIL import Image

from tasks.errors import UsageError
from tasks.ingest.catalogue import build_catalogue
from tasks.split.assign import make_snapshot
from tasks.storage.quarantine import (
    drop,
    keep_run_quarantine,
    left_out,
    list_quarantine,
    read_decisions,
    reason_kind,
    release,
    run_quarantine,
)
from tasks.storage.tables import read_table
from tasks.validate.validation import validate
from tests.photos import class_folders, save
from tests.runs import make_run


@pytest.fixture
def source(tmp_path):
    folder = class_folders(tmp_path / "photos", {"cat": 12, "dog": 12})
    save(folder / "cat/blank.png", Image.new("RGB", (40, 40), "grey"))
    (folder / "cat/bad.jpg").write_bytes(b"no picture")
    shutil.copy(folder / "cat/00000.jpg", folder / "dog/same.jpg")
    return folder


@pytest.fixture
def attempt(tmp_path, source):
    """Ingests and validates under a run id; returns the paths in use, and the paths in the run's quarantine."""

    def once(run_id):
        run = make_run(tmp_path / "w", source, run_id)
        table = read_table(run.workspace, validate(run, build_catalogue(run)).table_path)
        return set(table["path"]), {entry.path for entry in run_quarantine(run)}

    return once


@pytest.fixture
def workspace(tmp_path, source):
    return make_run(tmp_path / "w", source).workspace


HELD = {"cat/blank.png", "cat/bad.jpg", "cat/00000.jpg", "dog/same.jpg"}


def test_all_is_held_until_somebody_decides(attempt, workspace):
    used, quarantined = attempt("r1")
    assert (quarantined, HELD & used) == (HELD, set())
    listed = list_quarantine(workspace, "shapes")
    assert {(item["path"], item["status"]) for item in listed} == {(path, "held") for path in HELD}
    assert {item["path"] for item in listed if item["releasable"]} == HELD - {"cat/bad.jpg"}


def test_a_released_image_is_used_although_an_expectation_rejects_it(attempt, workspace):
    attempt("r1")
    before = read_decisions(workspace, "shapes").digest()
    assert [entry.path for entry in release(workspace, "shapes", ["cat/blank.png"])] == ["cat/blank.png"]
    used, quarantined = attempt("r2")
    assert "cat/blank.png" in used
    assert "cat/blank.png" not in quarantined
    assert read_decisions(workspace, "shapes").digest() != before


def test_releasing_one_side_of_a_conflict_says_which_label_is_right(attempt, workspace):
    attempt("r1")
    release(workspace, "shapes", ["dog/same.jpg"])
    used, quarantined = attempt("r2")
    assert "dog/same.jpg" in used
    assert "cat/00000.jpg" in quarantined
    release(workspace, "shapes", ["cat/00000.jpg"])  # and now nobody can tell again
    assert attempt("r3")[0] & HELD == set()


def test_each_entry_names_the_snapshot_that_was_made_without_it(tmp_path, source):
    snapshots = []
    for run_id in ("r1", "r2"):
        run = make_run(tmp_path / "w", source, run_id)
        snapshot = make_snapshot(run, validate(run, build_catalogue(run)))
        snapshots.append(snapshot.id)
        keep_run_quarantine(run, left_out(run.workspace, snapshot), snapshot.id)
        assert {entry.snapshot for entry in run_quarantine(run)} == {snapshots[-1]}
        (source / "dog" / "late.jpg").write_bytes(b"no picture either")
        class_folders(source, {"cat": 1}, start=70)
    listed = {item["path"]: item["snapshot"] for item in list_quarantine(run.workspace, "shapes")}
    assert snapshots[0] != snapshots[1]
    assert listed == dict.fromkeys(HELD, snapshots[0]) | {"dog/late.jpg": snapshots[1]}


def test_a_dropped_file_is_neither_used_nor_reported_again(attempt, workspace):
    attempt("r1")
    drop(workspace, "shapes", ["cat/bad.jpg", "dog/same.jpg"])
    used, quarantined = attempt("r2")
    assert quarantined == {"cat/blank.png"}
    assert "cat/00000.jpg" in used  # no conflict is left
    assert {item["status"] for item in list_quarantine(workspace, "shapes") if item["path"] == "cat/bad.jpg"} == {
        "dropped"
    }


def test_no_decision_makes_a_damaged_file_an_image(attempt, workspace):
    attempt("r1")
    with pytest.raises(UsageError, match="can't be released: not an image of a supported kind"):
        release(workspace, "shapes", ["cat/bad.jpg"])


def test_a_file_that_is_not_there_is_named_with_the_nearest(attempt, workspace):
    attempt("r1")
    with pytest.raises(UsageError, match=r"'cat/blanc.png' is not in the quarantine of shapes; near to it: 'cat/blank"):
        drop(workspace, "shapes", ["cat/blanc.png"])


def test_a_renamed_class_is_one_class(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 3, "dog": 3, "hound": 2})
    run = make_run(tmp_path / "w", source, config={"validate": {"rename": {"hound": "dog"}}})
    table = read_table(run.workspace, build_catalogue(run).table_path)
    assert dict(table["label"].value_counts()) == {"dog": 5, "cat": 3}


def test_a_budget_of_files(tmp_path, source):
    run = make_run(tmp_path / "w", source, config={"validate": {"max_quarantined": 3}})
    with pytest.raises(Exception, match=r"3 files \(validate.max_quarantined\); found 4 of 27 files"):
        validate(run, build_catalogue(run))


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("contrast is 0.0, expected at least 0.01 (not-blank: deviation of grey, 0 (blank) to 0.5)", "not blank"),
        ("the image is truncated or damaged: broken data stream", "the image is truncated or damaged"),
        ("the same image also has the label 'cat' (cat/a.jpg)", "the same image also has the label"),
        ("not an image of a supported kind (JPEG, PNG)", "not an image of a supported kind"),
        ("the file is empty", "the file is empty"),
        (
            "it was first assigned to train, but has a near-duplicate in test: line 7",
            "it was first assigned to train, but has a near-duplicate in test",
        ),
    ],
)
def test_reasons_are_counted_by_kind(reason, kind):
    assert reason_kind(reason) == kind
