"""The guess, before anything is read, whether there is much to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.summary import looks_new
from tasks.ingest.listing import listing_digest, listing_table
from tasks.ingest.sources import list_source
from tasks.records import Run
from tests import photos
from tests.runs import make_run

EARLIER = "20260101T000000-shapes-000000"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run on a folder that an earlier run has finished with."""
    source = photos.class_folders(tmp_path / "photos", {"red": 2, "green": 2})
    run = make_run(tmp_path / "w", source)
    finished = {
        "listing": listing_digest(listing_table(list_source(run).entries)),
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
    assert listing_digest(listing_table(entries)) != listing_digest(listing_table(list_source(run).entries))
