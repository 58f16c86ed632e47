"""Cleaning keeps what a model needs, frees the rest, and may be killed at any line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flows.cli import clean as module
from flows.cli.clean import clean, what_is_needed
from tasks.errors import WorkspaceError
from tasks.records import Run
from tasks.runs import one_at_a_time
from tasks.storage.feature_store import append_rows, feature_store, load_features
from tasks.storage.repository import versions, write_version
from tasks.storage.tables import catalogue_schema, snapshot_schema, write_table
from tasks.workspace import Workspace
from tests.runs import make_run

WIDTH = 16
KEY = "a" * 16


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def values(numbers: list[int]) -> np.ndarray:
    return np.array([[number + column / 64 for column in range(WIDTH)] for number in numbers], np.float16)


def store_rows(workspace: Workspace, numbers: list[int], key: str = KEY) -> None:
    append_rows(workspace, key, [digest(number) for number in numbers], [0] * len(numbers), values(numbers))


def catalogue_of(numbers: range, kind=catalogue_schema("image")) -> pd.DataFrame:
    filled = kind.empty_table().to_pandas().reindex(range(len(numbers)))
    filled[["copies", "size_bytes", "width_px", "height_px"]] = 1
    return filled.assign(sha256=sorted(digest(number) for number in numbers), label="cat", split="train")


def decided(folder: Path, run_id: str, images: range, key: str = KEY) -> Run:
    """A run whose catalogue, snapshot and summary are there."""
    run = make_run(folder, "photos", run_id)
    write_table(run.workspace, run.path("catalogue.parquet"), catalogue_of(images), catalogue_schema("image"))
    write_table(
        run.workspace,
        f"snapshots/{run_id}.parquet",
        catalogue_of(images, snapshot_schema("image")),
        snapshot_schema("image"),
    )
    lineage = {"snapshot": run_id, "recipe": key}
    run.workspace.write_json(run.path("summary.json"), {"run_id": run_id, "lineage": lineage})
    return run


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Images 0 to 29 were there once, 10 to 39 are now; stored in parts of five, some of the rows twice."""
    decided(tmp_path, "20260101T000000-shapes-aaaaaa", range(30))
    decided(tmp_path, "20260102T000000-shapes-bbbbbb", range(10, 40))
    place = Workspace(str(tmp_path))
    for start in range(0, 40, 5):
        store_rows(place, list(range(start, start + 5)))
    store_rows(place, [11, 12, 23])
    for file in ("corrections.csv", "inbox/shapes/a.jpg", "inbox/shapes.answers/a.json"):  # nobody can make these again
        place.write_bytes(file, b"x")
        os.utime(place.path(file), (0, 0))
    return place


def content(workspace: Workspace) -> dict[str, str]:
    return {
        file.path: hashlib.sha256(workspace.read_bytes(file.path)).hexdigest()
        for file in workspace.files("")
        if not file.path.startswith("locks/")
    }


def test_what_a_model_needs_stays_and_small_parts_become_one(workspace: Workspace):
    before = content(workspace)
    done = clean(workspace)
    store = feature_store(workspace, KEY)
    assert (done.parts["before"], done.parts["after"], len(store.parts())) == (9, 1, 1)
    assert sum(table.num_rows for table in store.read()) == 30  # each once
    now = [digest(number) for number in range(10, 40)]
    assert (load_features(workspace, KEY, now, 0) == values(list(range(10, 40)))).all()
    assert {path for path in before if not path.startswith("features/")} <= content(workspace).keys()
    assert clean(workspace).as_dict()["freed_bytes"] == 0


def test_a_dry_run_says_what_it_would_free_and_changes_nothing(workspace: Workspace):
    before = content(workspace)
    said = clean(workspace, dry_run=True).as_dict()
    assert content(workspace) == before
    held = sum(file.size_bytes for file in workspace.files("features"))
    done = clean(workspace).as_dict()
    assert said["parts"] == done["parts"]
    assert done["freed_bytes"] == held - sum(file.size_bytes for file in workspace.files("features"))
    assert 0 < said["freed_bytes"] <= done["freed_bytes"]  # that the merged part needs one footer is not counted


def test_keys_that_nobody_names_go_once_they_are_old(workspace: Workspace, tmp_path: Path):
    old, young, keras = "b" * 16, "c" * 16, f"{KEY}-keras"
    for key in (old, young, keras):
        store_rows(workspace, [10], key)
    for path in tmp_path.glob("features/[ab]*/*"):
        os.utime(path, (0, 0))
    clean(workspace)
    assert workspace.names("features") == [KEY, keras, young]


def test_artifacts_that_neither_a_run_nor_a_champion_is_made_of_go_once_they_are_old(tmp_path: Path):
    run = decided(tmp_path, "20260102T000000-shapes-bbbbbb", range(10))
    place, lineage = run.workspace, {"snapshot": "s", "recipe": KEY, "trunk": "artifacts/extractor/own/extractor.onnx"}
    summary = {"run_id": run.run_id, "lineage": lineage, "artifacts": {"finetune": "artifacts/finetune/finished"}}
    place.write_json(run.path("summary.json"), summary)
    made = {"lineage": {**lineage, "artifacts": {"finetune": "artifacts/finetune/champion"}}, "files": {}}
    place.write_json("models/shapes/1/manifest.json", made)
    keys = ("finetune/finished", "finetune/champion", "finetune/nobodys", "finetune/young", "extractor/own")
    for key in (*keys, "extractor/nobodys"):
        place.write_bytes(f"artifacts/{key}/artifact.json", b"{}")
    place.write_bytes("trunks/old.onnx", b"of an older headstart")
    for file in [*place.files("artifacts"), *place.files("trunks")]:
        if "young" not in file.path:
            os.utime(place.path(file.path), (0, 0))
    clean(place)
    assert place.names("artifacts/finetune") == ["champion", "finished", "young"]
    assert place.names("artifacts/extractor") == ["own"]
    assert place.files("trunks") == []


def test_bytes_runs_and_writes_that_nobody_needs_go(workspace: Workspace, tmp_path: Path):
    for number in (0, 20):
        workspace.write_bytes(f"images/{digest(number)[:2]}/{digest(number)}", b"pixels")
    interrupted, lately = "20260101T120000-shapes-dddddd", "20260103T000000-shapes-cccccc"
    for run_id in ("20260102T000000-shapes-bbbbbb", interrupted, lately):
        workspace.write_bytes(f"runs/{run_id}/quarantine.jsonl", b"")
    os.utime(tmp_path / "runs" / interrupted / "quarantine.jsonl", (0, 0))
    for name, age in ((".x.part", 0), (".y.part", time.time())):
        path = tmp_path / "features" / KEY / name
        path.write_bytes(b"half")
        os.utime(path, (age, age))
    clean(workspace)
    assert [file.name for file in workspace.files("images")] == [digest(20)]
    assert [file.path for file in workspace.files("runs") if file.name == "quarantine.jsonl"] == [
        "runs/20260102T000000-shapes-bbbbbb/quarantine.jsonl",
        f"runs/{lately}/quarantine.jsonl",
    ]
    assert ".x.part" not in workspace.names(f"features/{KEY}")
    assert ".y.part" in workspace.names(f"features/{KEY}")


def test_images_of_a_run_that_has_not_finished_are_needed(workspace: Workspace, tmp_path: Path):
    run = make_run(tmp_path, "photos", "20260103T000000-shapes-cccccc")
    write_table(run.workspace, run.path("catalogue.parquet"), catalogue_of(range(100, 103)), catalogue_schema("image"))
    assert {digest(101), digest(20)} <= what_is_needed(workspace).images
    assert digest(0) not in what_is_needed(workspace).images


def test_without_runs_everything_that_a_model_met_is_needed(tmp_path: Path):
    run = make_run(tmp_path, "photos")
    write_table(
        run.workspace, "snapshots/assignments/shapes.parquet", catalogue_of(range(3)), catalogue_schema("image")
    )
    assert what_is_needed(run.workspace).images == {digest(0), digest(1), digest(2)}


def test_what_cannot_be_read_stops_it_before_anything_is_removed(workspace: Workspace):
    workspace.write_bytes("runs/20260102T000000-shapes-bbbbbb/summary.json", b"{")
    before = content(workspace)
    with pytest.raises(json.JSONDecodeError):
        clean(workspace)
    assert content(workspace) == before


@pytest.mark.parametrize("survived", range(12))
def test_it_may_die_between_any_two_changes(workspace: Workspace, survived: int, monkeypatch: pytest.MonkeyPatch):
    """After so many writes and removals the process is gone: all that is needed is there, and the next time ends it."""
    left = iter(range(survived))

    def mortal(operation):
        def once(*args, **options):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return operation(*args, **options)

        return once

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "remove", mortal(Workspace.remove))
        patch.setattr(Workspace, "write_bytes", mortal(Workspace.write_bytes))
        try:
            clean(workspace)
        except KeyboardInterrupt:
            assert survived < 10  # one write, nine removals
    now = [digest(number) for number in range(10, 40)]
    assert (load_features(workspace, KEY, now, 0) == values(list(range(10, 40)))).all()
    clean(workspace)
    assert len(feature_store(workspace, KEY).parts()) == 1
    assert sum(table.num_rows for table in feature_store(workspace, KEY).read()) == 30


def test_large_parts_are_left_alone_until_much_of_them_is_dead(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SMALL_PART_BYTES", 0)
    before = feature_store(workspace, KEY).parts()
    clean(workspace)
    after = feature_store(workspace, KEY).parts()
    assert len(set(before) & set(after)) == 6  # of images 10 to 39
    assert len(after) == 6


def test_it_refuses_beside_a_retrain_and_a_retrain_waits_for_it(workspace: Workspace, tmp_path: Path):
    run = make_run(tmp_path, "photos")
    with one_at_a_time(run):
        clean(workspace, dry_run=True)
        with pytest.raises(WorkspaceError, match="a retrain of shapes is under way"):
            clean(workspace)
    with module.no_run(workspace), pytest.raises(WorkspaceError, match=r"headstart clean.* has held"):  # noqa: SIM117
        with one_at_a_time(run, timeout_s=0.2):
            pass
    clean(workspace)
    with one_at_a_time(run, timeout_s=0.2):
        pass


def test_a_reader_misses_nothing_while_parts_are_merged(workspace: Workspace):
    reading = feature_store(workspace, KEY).read(["sha256"])
    found = set(next(reading)["sha256"].to_pylist())
    clean(workspace)
    for table in reading:
        found.update(table["sha256"].to_pylist())
    assert {digest(number) for number in range(10, 40)} <= found


def test_the_command_prints_one_object(workspace: Workspace):
    command = [sys.executable, "-m", "flows.cli", "clean", "--workspace", workspace.url]
    said = subprocess.run([*command, "--dry-run", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(said.stdout)["parts"] == {"before": 9, "after": 1}
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "9 parts of the stores are now 1" in said.stdout


@pytest.mark.parametrize("store", ["folder", "bucket"])
def test_a_publish_that_died_is_removed_when_it_is_old_and_can_come_no_more(
    store: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    workspace = Workspace(str(tmp_path) if store == "folder" else request.getfixturevalue("bucket_url"))
    lineage = {"lineage": {"snapshot": "none", "recipe": KEY}}
    write_version(workspace, "shapes", 1, {"model.onnx": b"one"}, lineage, "")
    if store == "folder":
        left = ["models/shapes/.publishing-0a/model.onnx", "models/shapes/.publishing-0b/model.onnx"]
    else:  # a folder aside is a disk's; on an object store a number is taken at once
        left = ["models/shapes/2/model.onnx", "models/shapes/3/model.onnx"]
    for path in left:
        workspace.write_bytes(path, b"half a version")
    published = 2 if store == "folder" else 4
    write_version(workspace, "shapes", published, {"model.onnx": b"two"}, lineage, "")
    newest = [f"models/shapes/{published + 1}/model.onnx"] if store == "bucket" else []
    for path in newest:  # the number after the highest may yet be finished by a retry
        workspace.write_bytes(path, b"half a version")

    assert clean(workspace).freed.get("models", 0) == 0  # it may be under way
    monkeypatch.setattr(module, "ABANDONED_WRITE_DAYS", -1)
    assert clean(workspace, dry_run=True).freed["models"] == 2 * len(b"half a version")
    assert all(workspace.exists(path) for path in left)
    clean(workspace)
    assert not any(workspace.exists(path.rsplit("/", 1)[0]) for path in left)
    assert all(workspace.exists(path) for path in newest)
    assert versions(workspace, "shapes") == [1, published]
