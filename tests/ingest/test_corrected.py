"""What people decided about labels, applied where files enter the catalogue."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from tasks.ingest.catalogue import build_catalogue
from tasks.ingest.corrected import DROPPED
from tasks.split.assign import make_snapshot
from tasks.storage.corrections import Correction, decide
from tasks.storage.quarantine import run_quarantine
from tasks.storage.tables import read_table
from tests.photos import class_folders
from tests.runs import make_run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "photos", {"cat": 12, "dog": 12})


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_of(tmp_path: Path, source: Path, run_id: str = "r1", **config):
    return make_run(tmp_path / "w", source, run_id, config)


def correct(run, path: Path, label: str) -> str:
    decide(run.workspace, Correction(sha256=digest(path), label=label, by="anna", when="2026", reason="looked"))
    return digest(path)


def labels(run) -> dict[str, str]:
    table = read_table(run.workspace, build_catalogue(run).table_path)
    return dict(zip(table["path"], table["label"], strict=True))


def test_a_corrected_label_and_a_dropped_image(tmp_path, source):
    run = run_of(tmp_path, source)
    before = build_catalogue(run)
    shutil.copy(source / "cat/00001.jpg", source / "cat/copy.jpg")
    correct(run, source / "cat/00000.jpg", "dog")
    dropped = correct(run, source / "cat/00001.jpg", "drop")
    correct(run, source / "dog/00000.jpg", "dog")  # confirmed, which changes nothing
    after = build_catalogue(run)
    found = labels(run)
    assert found["cat/00000.jpg"] == "dog"
    assert "cat/00001.jpg" not in found
    assert (after.images, after.corrected, after.dropped, after.left_out) == (23, 1, 1, {DROPPED: 2})
    assert after.digest != before.digest
    assert (before.corrected, before.dropped) == (0, 0)
    kept = run.workspace.read_json(run.path("corrections.json"))
    assert kept["dropped"] == [
        {"sha256": dropped, "path": "cat/00001.jpg", "given": "cat", "label": "drop"}
        | {"by": "anna", "when": "2026", "reason": "looked"}
    ]
    assert [(row["path"], row["given"], row["label"]) for row in kept["changed"]] == [("cat/00000.jpg", "cat", "dog")]
    assert (source / "cat/00000.jpg").exists()
    assert run_quarantine(run) == []


def test_what_has_no_effect_is_named_and_stops_nothing(tmp_path, source, caplog):
    run = run_of(tmp_path, source)
    correct(run, source / "cat/00000.jpg", "bird")
    decide(run.workspace, Correction(sha256="e" * 64, label="dog"))
    text = run.workspace.read_bytes("corrections.csv") + b"nonsense,dog,,,\n"
    run.workspace.write_bytes("corrections.csv", text)
    assert labels(run)["cat/00000.jpg"] == "cat"
    kept = run.workspace.read_json(run.path("corrections.json"))
    assert [sentence[:6] for sentence in kept["without_effect"]] == ["line 4", "line 2"]
    assert "there is no class 'bird'" in kept["without_effect"][1]
    assert kept["absent"] == 1
    assert "line 2: there is no class 'bird'" in caplog.text


def test_a_correction_settles_one_picture_under_two_labels(tmp_path, source):
    shutil.copy(source / "cat/00000.jpg", source / "dog/same.jpg")
    run = run_of(tmp_path, source)
    assert "cat/00000.jpg" not in labels(run)
    correct(run, source / "cat/00000.jpg", "cat")
    assert labels(run)["cat/00000.jpg"] == "cat"


def test_a_decision_with_a_classs_former_name_counts(tmp_path, source):
    run = run_of(tmp_path, source, validate={"rename": {"dog": "hound"}})
    correct(run, source / "cat/00000.jpg", "dog")
    assert labels(run)["cat/00000.jpg"] == "hound"


def test_the_snapshot_is_another_and_the_split_stays(tmp_path, source):
    run = run_of(tmp_path, source)
    first = make_snapshot(run, build_catalogue(run))
    splits = read_table(run.workspace, first.table_path).set_index("sha256")["split"]
    moved = correct(run, source / "cat/00000.jpg", "dog")
    later = run_of(tmp_path, source, "r2")
    second = make_snapshot(later, build_catalogue(later))
    table = read_table(run.workspace, second.table_path).set_index("sha256")
    assert second.id != first.id
    assert table.loc[moved, "label"] == "dog"
    assert table["split"].equals(splits)
