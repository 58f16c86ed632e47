"""The workspace on an object store: the same behaviour, few bytes, and patience with faults that pass."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fsspec.config import conf as fsspec_settings

from flows.cli.clean import clean
from flows.debounce import marker_path, marker_signature
from tasks.errors import WorkspaceError
from tasks.ingest.listing import arrivals, last_listing, listing_table, remember_listing, write_listing
from tasks.ingest.sources import list_source
from tasks.orchestration import is_transient_fault
from tasks.runs import finished_runs
from tasks.storage.corrections import Correction, Corrections, decide, read_corrections, undo
from tasks.storage.feature_store import append_rows, feature_store, load_features, load_rows, stored_views
from tasks.storage.repository import champion, read_model, versions, write_version
from tasks.storage.tables import catalogue_schema, write_table
from tasks.workspace import Workspace
from tests import photos
from tests.flows.cli.test_clean import catalogue_of
from tests.object_store import ObjectStore, object_store
from tests.runs import make_run

KEYS = [f"{number:064x}" for number in range(2000)]
VALUES = np.random.default_rng(0).random((len(KEYS), 1280), np.float32).astype(np.float16)


@pytest.fixture
def s3() -> Iterator[ObjectStore]:
    with object_store(fsspec_settings) as store:
        yield store


@pytest.fixture
def stored(s3: ObjectStore) -> Workspace:
    """2,000 rows in four parts, 5 MB."""
    workspace = Workspace(s3.workspace)
    for start in range(0, len(KEYS), 500):
        append_rows(workspace, "r", KEYS[start : start + 500], [0] * 500, VALUES[start : start + 500])
    return workspace


def test_the_workspace_reads_what_it_wrote(s3: ObjectStore):
    workspace = Workspace(s3.workspace)
    workspace.check_writable()
    workspace.write_json("runs/r1/summary.json", {"a": "ü"})
    assert workspace.read_json("runs/r1/summary.json") == {"a": "ü"}
    assert workspace.names("runs") == ["r1"]
    assert [(file.path, file.size_bytes) for file in workspace.files("runs")] == [("runs/r1/summary.json", 16)]
    assert Path(workspace.local_file("runs/r1/summary.json")).read_text(encoding="utf-8").strip().startswith("{")
    workspace.remove("runs")
    workspace.remove("runs")
    assert workspace.names("runs") == []
    with pytest.raises(WorkspaceError, match="is not in the workspace"):
        workspace.read_bytes("runs/r1/summary.json")


def test_versions_are_whole_or_not_at_all(s3: ObjectStore):
    workspace = Workspace(s3.workspace)
    write_version(workspace, "shapes", 1, {"model.onnx": b"one"}, {}, "config")
    workspace.write_bytes("models/shapes/2/model.onnx", b"the process died before the manifest")
    assert versions(workspace, "shapes") == [1]
    write_version(workspace, "shapes", 3, {"model.onnx": b"three"}, {}, "config")
    assert champion(workspace, "shapes") == 3
    assert read_model(workspace, "shapes", 3)["model.onnx"] == b"three"


def test_finished_runs_are_found(s3: ObjectStore):
    run = make_run(s3.workspace, "photos", "20260101T000000-shapes-aaaaaa")
    run.workspace.write_json(run.path("summary.json"), {"verdict": "promoted"})
    assert [summary["verdict"] for summary in finished_runs(run.workspace, "shapes")] == ["promoted"]


def test_what_arrives_in_a_bucket_is_told_from_what_was_there(s3: ObjectStore):
    workspace = Workspace(s3.workspace)
    source = f"{s3.workspace}/photos"
    run = make_run(s3.workspace, source)
    for name in ("cat/a.jpg", "cat/b.jpg", "dog/c.jpg"):
        workspace.write_bytes(f"photos/{name}", b"1")
    write_listing(run, listing_table(list_source(run).entries, Corrections()))
    remember_listing(run)
    last = last_listing(workspace, run.name)
    assert arrivals(listing_table(list_source(run).entries, Corrections()), last).new == 0
    workspace.write_bytes("photos/cat/a.jpg", b"2")  # as large as before
    workspace.write_bytes("photos/dog/d.jpg", b"1")
    assert arrivals(listing_table(list_source(run).entries, Corrections()), last).classes == {"cat": 1, "dog": 1}
    path = marker_path(source, "_DONE")
    assert marker_signature(path) is None
    workspace.write_bytes("photos/_DONE", b"")
    assert marker_signature(path) is not None


def test_rows_come_back(stored: Workspace):
    order = np.random.default_rng(1).permutation(len(KEYS))
    wanted = [KEYS[place] for place in order]
    assert (load_features(stored, "r", wanted, 0) == VALUES[order]).all()
    with load_rows(stored, "r", wanted, [0]) as rows:
        assert (rows[:] == VALUES[order]).all()


def test_what_is_stored_is_told_without_transferring_the_rows(stored: Workspace, s3: ObjectStore):
    size = sum(file.size_bytes for file in stored.files("features"))
    before = s3.sent_bytes
    assert stored_views(stored, "r", KEYS, 2).sum(axis=0).tolist() == [len(KEYS), 0]
    assert s3.sent_bytes - before < size / 8  # keys are 70 of a row's 2,630 bytes; footers and listings come on top


def test_a_damaged_part_is_dropped(stored: Workspace):
    path = feature_store(stored, "r").parts()[0]
    content = bytearray(stored.read_bytes(path))
    content[len(content) // 2] ^= 1
    stored.write_bytes(path, bytes(content))
    assert sum(table.num_rows for table in feature_store(stored, "r").read()) == 1500
    assert path not in feature_store(stored, "r").parts()
    assert stored_views(stored, "r", KEYS, 1).sum() == 1500


def test_cleaning_merges_there_too(stored: Workspace):
    run = make_run(stored.url, "photos", "20260101T000000-shapes-aaaaaa")
    write_table(
        run.workspace,
        run.path("catalogue.parquet"),
        catalogue_of(range(1500)).assign(sha256=KEYS[:1500]),
        catalogue_schema("image"),
    )
    clean(stored)
    assert len(feature_store(stored, "r").parts()) == 1
    assert (load_features(stored, "r", KEYS[:1500], 0) == VALUES[:1500]).all()
    assert stored_views(stored, "r", KEYS, 1).sum() == 1500


def test_decisions_about_labels_are_kept_and_taken_back(stored: Workspace):
    for label in ("hat", "shoe"):
        decide(stored, Correction(sha256="f" * 64, label=label))
    assert undo(stored, "f" * 64, by="anna", when="2026")
    found = read_corrections(stored)
    assert [row.label for row in found.standing().values()] == ["hat"]
    assert len(found.rows) == 3
    assert stored.names("")[0] == "corrections.csv"  # and no lock


def test_faults_that_pass_are_waited_for(stored: Workspace, s3: ObjectStore):
    s3.fails = lambda number: number % 3 == 0
    append_rows(stored, "r", ["f" * 64], [0], VALUES[:1])
    assert (load_features(stored, "r", [*KEYS, "f" * 64], 0) == np.concatenate([VALUES, VALUES[:1]])).all()
    stored.write_json("runs/r1/summary.json", {})
    assert stored.read_json("runs/r1/summary.json") == {}
    assert s3.failed > 5


def test_a_fault_that_does_not_pass_drops_nothing_and_is_worth_another_try(
    stored: Workspace, s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
):
    parts = feature_store(stored, "r").parts()
    monkeypatch.setattr(type(stored.fs), "retries", 1)
    s3.fails = lambda number: True
    with pytest.raises(OSError, match="reduce your request rate") as fault:
        load_features(stored, "r", KEYS, 0)
    assert is_transient_fault(fault.value)
    s3.fails = lambda number: False
    assert feature_store(stored, "r").parts() == parts


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_whole_retrain(s3: ObjectStore, tmp_path: Path):
    """Every seventh request is refused at first; the source is local, the workspace is not."""
    source = photos.class_folders(tmp_path / "photos", {"red": 30, "green": 30, "blue": 30})
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "retrain",
        source,
        "--name",
        "tints",
        "--workspace",
        s3.workspace,
    ]
    command += ["--json", "--backbone", "embedded", "--set", "backbone.image_size_px=64"]
    command += ["--set", "split.test_share=0.25", "--set", "evaluate.cross_fit_s=0"]
    environ = {**os.environ, **s3.environ}

    def retrain() -> dict:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environ, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    s3.fails = lambda number: number % 7 == 0
    first = retrain()
    assert (first["verdict"], first["version"], first["images"]["embedded"]) == ("promoted", 1, 90)
    assert s3.failed > 10
    workspace = Workspace(s3.workspace)
    assert versions(workspace, "tints") == [1]
    assert first["model"].startswith("s3://")
    again = retrain()
    assert (again["verdict"], again["images"]["embedded"]) == ("unchanged", 0)
