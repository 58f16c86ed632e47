"""The guess, before anything is read, whether there is much to do."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from flows.summary import looks_new, run_key, unchanged
from tasks.ingest.catalogue import build_catalogue
from tasks.ingest.listing import listing_digest, listing_table
from tasks.ingest.sources import list_source
from tasks.orchestration import Account
from tasks.records import Run
from tasks.runs import finished_runs, write_summary
from tasks.storage.corrections import Correction, Corrections, decide
from tests import photos
from tests.runs import make_run

EARLIER = "20260101T000000-shapes-000000"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run on a folder that an earlier run has finished with."""
    source = photos.class_folders(tmp_path / "photos", {"red": 2, "green": 2})
    run = make_run(tmp_path / "w", source)
    finished = {
        "listing": listing_digest(listing_table(list_source(run).entries, Corrections())),
        "lineage": {"config_digest": run.config.digest()},
    }
    run.workspace.write_json(f"runs/{EARLIER}/summary.json", finished)
    return run


def test_nothing_looks_new_where_the_listing_is_the_same(run: Run):
    assert not looks_new(run, list_source(run))


def test_a_file_more_less_or_of_another_size_looks_new(run: Run):
    first, second, *_ = sorted(Path(run.source).rglob("*.jpg"))
    content, written = first.read_bytes(), first.stat().st_mtime_ns
    first.write_bytes(content + b"\0")
    os.utime(first, ns=(written, written))
    assert looks_new(run, list_source(run))
    first.write_bytes(content)
    assert looks_new(run, list_source(run))  # written again
    os.utime(first, ns=(written, written))
    assert not looks_new(run, list_source(run))
    moved = second.rename(second.with_name("other.jpg"))
    assert looks_new(run, list_source(run))
    moved.rename(second)
    (second.parent / "more.jpg").write_bytes(content)
    assert looks_new(run, list_source(run))


def test_another_configuration_and_a_new_model_look_new(run: Run, tmp_path: Path):
    listing = list_source(run)
    assert looks_new(make_run(tmp_path / "w", run.source, config={"finetune": {"epochs": 3}}), listing)
    assert looks_new(make_run(tmp_path / "empty", run.source), listing)


def test_of_a_source_that_is_not_listed_yet_nothing_is_guessed(run: Run):
    assert not looks_new(run, None)


def test_a_file_that_vanishes_meanwhile_is_no_fault(run: Run):
    entries = list_source(run).entries
    Path(entries[0].uri).unlink()
    assert listing_digest(listing_table(entries, Corrections())) != listing_digest(
        listing_table(list_source(run).entries, Corrections())
    )


@pytest.mark.parametrize("root", ["", "/old/w/"], ids=["kept", "kept by an earlier release"])
def test_a_moved_workspace_names_its_own_files(run: Run, tmp_path: Path, root: str):
    before = {"report": f"{root}runs/{EARLIER}/report.html", "model": f"{root}models/shapes/1/model.onnx"}
    run.workspace.write_json(f"runs/{EARLIER}/summary.json", {"run_id": EARLIER, **before})
    [found] = finished_runs(run.workspace, "shapes")
    assert found["report"] == str(tmp_path / f"w/runs/{EARLIER}/report.html")
    assert found["model"] == str(tmp_path / "w/models/shapes/1/model.onnx")


@pytest.mark.parametrize("model", ["models/shapes/1/model.onnx", None])
def test_a_summary_is_kept_without_the_workspaces_place(run: Run, model: str | None):
    run = replace(run, run_id=EARLIER)
    paths = {"report": run.path("report.html"), "model": model}
    shown = {key: path and run.workspace.display(path) for key, path in paths.items()}
    write_summary(run, {"verdict": "promoted", **shown})
    assert run.workspace.read_json(run.path("summary.json")) == {"verdict": "promoted", **paths}
    assert next(finished_runs(run.workspace, run.name)) == {"verdict": "promoted", **shown}


def test_a_correction_is_something_new_and_a_confirmed_label_is_not(run: Run):
    before = run_key(run, build_catalogue(run))
    image = hashlib.sha256((Path(run.source) / "red/00000.jpg").read_bytes()).hexdigest()
    for label, same in (("red", True), ("green", False), ("drop", False)):
        decide(run.workspace, Correction(sha256=image, label=label))
        assert (run_key(run, build_catalogue(run)) == before) == same, label


@pytest.mark.parametrize(("version", "tried_again"), [(3, True), (None, False)])
def test_without_its_champion_a_model_is_made_again_unless_it_never_had_one(run: Run, version, tried_again: bool):
    last = {"run_id": EARLIER, "fingerprint": "k", "version": version, "reasons": ["weak"], "metrics": {}, "images": {}}
    run.workspace.write_json(f"runs/{EARLIER}/summary.json", last)
    found = unchanged(run, "k", Account())
    assert (found is None) == tried_again
    if found:
        assert "(--force runs it again)" in found["reasons"][0]
