"""The sensor's sense, by a clock that the test moves."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from flows.debounce import Announced, Debounce, DebounceSettings, absolute_source, marker_path, marker_signature, pulses
from tasks.errors import UsageError
from tasks.ingest.entries import Entry
from tasks.ingest.listing import Arrivals, arrivals, last_listing, listing_table, remember_listing, write_listing
from tasks.ingest.sources import list_source
from tasks.storage.corrections import Corrections
from tasks.workspace import Workspace
from tests import photos
from tests.runs import make_run


def found(listing: str, new: int = 1) -> Arrivals:
    return Arrivals(listing=listing, total=new, new=new, removed=0, classes={})


def test_what_arrives_in_dribbles_is_ready_once_nothing_has_changed_for_the_quiet_period():
    debounce = Debounce(DebounceSettings(settle_s=5))
    said = [debounce.ready(found(f"listing {second // 3}"), float(second), False) for second in range(12)]
    assert not any(said)  # another listing every 3 s
    assert [debounce.ready(found("listing 3"), second, False) for second in (13.9, 14.0, 15.0)] == [False, True, True]


def test_a_change_that_the_system_tells_of_counts_from_that_moment():
    debounce = Debounce(DebounceSettings(settle_s=5))
    assert debounce.touch(100.0) == 105.0
    assert debounce.ready(found("a"), 105.0, False)
    debounce.touch(106.0)
    assert not debounce.ready(found("b"), 110.9, False)
    assert debounce.ready(found("b"), 111.0, False)


def test_fewer_than_enough_wait_and_then_go_all_the_same():
    debounce = Debounce(DebounceSettings(settle_s=1, min_new=10, max_wait_s=60))
    assert not debounce.ready(found("a", 3), 0.0, False)
    assert not debounce.ready(found("a", 3), 59.9, False)
    assert debounce.ready(found("a", 3), 60.0, False)
    assert not debounce.ready(found("b", 12), 61.0, False)  # enough, not settled
    assert debounce.ready(found("b", 12), 62.0, False)


def test_the_waiting_starts_anew_once_all_was_seen():
    debounce = Debounce(DebounceSettings(settle_s=0, min_new=10, max_wait_s=60))
    debounce.ready(found("a", 3), 0.0, False)
    assert not debounce.ready(found("a", 0), 30.0, False)
    assert not debounce.ready(found("b", 3), 70.0, False)
    assert debounce.ready(found("b", 3), 130.0, False)


def test_a_marker_takes_the_place_of_quiet():
    debounce = Debounce(DebounceSettings(settle_s=5, marker="_DONE"))
    assert debounce.touch(0.0) == 0.0
    assert not debounce.ready(found("a"), 60.0, False)
    assert debounce.ready(found("b"), 60.1, True)


def test_a_source_that_takes_long_to_list_is_looked_at_less_often():
    debounce = Debounce(DebounceSettings(settle_s=5, poll_s=1))
    assert debounce.next_look(100.0, cost_s=0.01) == 101.0
    assert debounce.next_look(100.0, cost_s=1.0) == 120.0
    debounce.ready(found("a"), 100.0, False)  # … but for once at the moment at which it may have settled
    assert debounce.next_look(100.0, cost_s=1.0) == 105.0


def test_new_changed_relabelled_and_removed_files(tmp_path: Path):
    source = photos.class_folders(tmp_path / "photos", {"cat": 3, "dog": 2})
    run = make_run(tmp_path / "w", source)
    assert (
        arrivals(listing_table(list_source(run).entries, Corrections()), last_listing(run.workspace, run.name)).new == 5
    )

    write_listing(run, listing_table(list_source(run).entries, Corrections()))
    assert last_listing(run.workspace, run.name).empty  # no verdict yet
    remember_listing(run)
    remember_listing(run)  # a process that died in between does it again
    before = last_listing(run.workspace, run.name)
    assert arrivals(listing_table(list_source(run).entries, Corrections()), before).new == 0

    status = (source / "cat/00000.jpg").stat()
    os.utime(source / "cat/00000.jpg", ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # written again, as large
    (source / "cat/00001.jpg").rename(source / "dog/moved.jpg")
    (source / "dog/00001.jpg").unlink()
    photos.save(source / "dog/new.jpg", photos.photo(9))
    now = arrivals(listing_table(list_source(run).entries, Corrections()), before)
    assert (now.total, now.new, now.removed, now.classes) == (5, 3, 2, {"cat": 1, "dog": 2})


def test_a_listing_keeps_names_that_are_awkward_and_splits_that_are_absent(tmp_path: Path):
    source = photos.class_folders(tmp_path / "photos/train", {'it\'s, "quoted"': 1})
    photos.class_folders(tmp_path / "photos/test", {"日本": 1})
    run = make_run(tmp_path / "w", source.parent)
    table = listing_table([*list_source(run).entries, Entry("absent.jpg", "/nowhere/absent.jpg", "cat")], Corrections())
    write_listing(run, table)
    remember_listing(run)
    assert arrivals(table, last_listing(run.workspace, run.name)).new == 0


def test_what_was_announced_survives_and_what_cannot_be_read_counts_as_nothing(tmp_path: Path):
    workspace = Workspace(str(tmp_path))
    assert Announced.read(workspace, "hats") == Announced()
    kept = Announced("digest", {"id": "1"}, False, "stamp").write(workspace, "hats")
    assert Announced.read(workspace, "hats") == kept
    workspace.write_bytes("watch/hats.json", b'{"listing": 3, "unknown": 4}')
    assert Announced.read(workspace, "hats") == Announced()


def test_the_system_tells_of_a_change_in_a_folder(tmp_path: Path):
    stop = threading.Event()
    beats = pulses(str(tmp_path), 0.1, stop)
    assert next(beats) is False
    (tmp_path / "cat").mkdir()
    assert any(next(beats) for _ in range(1200))  # for two minutes at most
    stop.set()
    list(beats)  # it ends


def test_changes_of_the_workspace_are_none_of_the_source(tmp_path: Path):
    stop = threading.Event()
    (tmp_path / "workspace/runs").mkdir(parents=True)
    beats = pulses(str(tmp_path), 0.05, stop, str(tmp_path / "workspace"))
    next(beats)
    for number in range(5):
        (tmp_path / f"workspace/runs/{number}").write_text("x")
        assert [next(beats) for _ in range(15)] == [False] * 15
    (tmp_path / "cat.jpg").write_text("x")
    assert any(next(beats) for _ in range(1200))
    stop.set()
    list(beats)


def test_elsewhere_it_beats(tmp_path: Path):
    stop = threading.Event()
    beats = pulses("memory://photos", 0.01, stop)
    assert [next(beats), next(beats)] == [False, False]
    stop.set()
    assert list(beats) == []


def test_the_marker_lies_in_the_folder_or_beside_the_file_or_where_it_is_said(tmp_path: Path):
    (tmp_path / "list.csv").write_text("path,label\n")
    for source in (tmp_path, tmp_path / "list.csv"):
        assert marker_path(str(source), "_DONE") == f"file://{tmp_path}/_DONE"
    assert marker_path(str(tmp_path), "/elsewhere/_DONE") == "/elsewhere/_DONE"
    assert marker_path("memory://photos", "_DONE") == "memory:///photos/_DONE"
    path = marker_path(str(tmp_path), "_DONE")
    assert marker_signature(path) is None
    (tmp_path / "_DONE").touch()
    first = marker_signature(path)
    os.utime(tmp_path / "_DONE", (1, 1))
    assert None not in (first, marker_signature(path))
    assert marker_signature(path) != first


def test_what_does_not_grow_is_not_watched():
    with pytest.raises(UsageError, match="headstart retrain tfds:digits"):
        absolute_source("tfds:digits")
