"""Whether there is anything to do: guessed before anything is read, and known from the images."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flows.summary import looks_new, run_key, unchanged, up_to_date
from tasks.ingest.catalogue import build_catalogue
from tasks.ingest.listing import listing_digest, listing_table
from tasks.ingest.sources import list_source
from tasks.records import Run
from tasks.runs import Account, finished_runs, one_at_a_time, write_summary
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


@pytest.fixture
def finished(run: Run) -> Run:
    """A run with nothing new: its images and its configuration are those of an earlier run, which was refused."""
    key = run_key(run, build_catalogue(run))
    earlier = run.workspace.read_json(f"runs/{EARLIER}/summary.json")
    last = {"run_id": EARLIER, "fingerprint": key, "version": None, "reasons": ["weak"], "metrics": {}, "images": {}}
    run.workspace.write_json(f"runs/{EARLIER}/summary.json", {**earlier, **last})
    return run


def test_a_run_with_nothing_new_needs_no_flow(finished: Run):
    summary = up_to_date(finished, list_source(finished), Account())
    assert summary
    assert (summary["verdict"], summary["run_id"]) == ("refused", finished.run_id)
    assert summary["timings_s"]["ingest"] > 0


def test_what_looks_new_and_what_turns_out_to_be_is_left_to_the_flow(finished: Run):
    other_rules = replace(finished, config=finished.config.with_keys({"finetune.epochs": 3}))
    assert up_to_date(other_rules, list_source(finished), Account()) is None
    summary = finished.workspace.read_json(f"runs/{EARLIER}/summary.json")
    finished.workspace.write_json(f"runs/{EARLIER}/summary.json", {**summary, "fingerprint": "another"})
    assert up_to_date(finished, list_source(finished), Account()) is None
    assert not finished.workspace.exists(finished.folder)


def test_beside_another_run_of_the_model_it_is_left_to_the_flow_which_waits(finished: Run):
    with one_at_a_time(finished):
        assert up_to_date(finished, list_source(finished), Account()) is None


def test_neither_prefect_nor_tensorflow_is_loaded_to_find_that_nothing_is_new():
    code = (
        "import flows.summary, flows.preflight, flows.server, sys; print({'prefect', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
