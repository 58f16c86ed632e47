"""One file that can't be read, or has no end, is named, and ends nothing else."""

from __future__ import annotations

import json
import os

import pytest

from tasks.errors import SourceChangedError, SourceError
from tasks.ingest.catalogue import build_catalogue
from tasks.ingest.reading import read_files
from tasks.ingest.sources import list_source
from tasks.modality.items import read_bytes, read_checked
from tests.photos import class_folders, encoded, photo, save
from tests.runs import make_run


@pytest.fixture
def source(tmp_path):
    return class_folders(tmp_path / "photos", {"cat": 3, "dog": 3})


def quarantined(tmp_path, source, *odd: str) -> dict[str, str]:
    """Lists the six sound pictures and these odd paths; returns the reasons of what is quarantined."""
    rows = [{"path": str(file), "label": file.parent.name} for file in sorted(source.rglob("*.jpg"))]
    lines = [json.dumps(row) for row in [*rows, *({"path": path, "label": "cat"} for path in odd)]]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    run = make_run(tmp_path / "w", tmp_path / "list.jsonl")
    ref = build_catalogue(run)
    assert ref.images == 6
    text = (tmp_path / "w/runs/r1/quarantine.jsonl").read_text()
    return {row["path"]: row["reason"] for row in map(json.loads, text.split("\n")[:-1])}


@pytest.mark.timeout(20)
def test_what_has_no_end_is_left_out_by_name(tmp_path, source):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
    (tmp_path / "random.jpg").symlink_to("/dev/urandom")
    found = quarantined(
        tmp_path, source, "/dev/urandom", "/dev/zero", "/proc/kmsg", "pipe.jpg", "self.jpg", "random.jpg", "photos/cat"
    )
    assert found == {
        "/dev/urandom": "it is a device, not a file",
        "/dev/zero": "it is a device, not a file",
        "/proc/kmsg": "the file is empty",
        "pipe.jpg": "it is a pipe, not a file",
        "self.jpg": "it can't be read: Too many levels of symbolic links",
        "random.jpg": "it is a device, not a file",
        "photos/cat": "it is a folder, not a file",
    }


def test_names_that_no_file_can_have_are_left_out_by_name(tmp_path, source):
    (tmp_path / "list.jsonl").write_text("")
    long = "x" * 5000 + ".jpg"
    found = quarantined(
        tmp_path, source, long, "a\0b.jpg", "\ud800.jpg", "foo://x/a.jpg", "S3://b/a.jpg", "gs://b/a.jpg"
    )
    assert found[long] == "it can't be read: File name too long"
    assert "not valid UTF-8" in found["a\0b.jpg"]
    assert "not valid UTF-8" in found["\\ud800.jpg"]
    assert "line 10 of the manifest: foo:// is no scheme that is known" in found["foo://x/a.jpg"]
    assert "lower case" in found["S3://b/a.jpg"]
    assert "gs:// can't be read here: Please install gcsfs" in found["gs://b/a.jpg"]


def test_a_file_that_is_gone_before_it_is_read_is_left_out_by_name(tmp_path, source):
    run = make_run(tmp_path / "w", source)
    entries = list_source(run).entries
    (source / "cat/00000.jpg").unlink()
    reads = {read.entry.path: read.fault for read in read_files(run, entries)}
    assert reads["cat/00000.jpg"] == "it can't be read: No such file or directory"
    assert sum(fault is None for fault in reads.values()) == 5


def test_a_storage_that_does_not_answer_is_tried_again(tmp_path, source, monkeypatch):
    def stale(*args):
        raise SourceError("can't read") from OSError(116, "Stale file handle")

    run = make_run(tmp_path / "w", source)
    monkeypatch.setattr("tasks.modality.items.read_bytes", stale)
    with pytest.raises(SourceError):
        read_files(run, list_source(run).entries)


def test_no_more_is_read_than_is_allowed(tmp_path):
    file = save(tmp_path / "a.jpg", photo(1))
    assert read_bytes(str(file), file.stat().st_size) == file.read_bytes()
    with pytest.raises(SourceError, match="more than 100"):
        read_bytes(str(file), 100)


@pytest.mark.parametrize("harm", ["deleted", "changed", "made a folder"])
def test_an_image_that_is_not_what_was_inspected_is_a_change_of_the_source(tmp_path, harm):
    file = tmp_path / "a.jpg"
    if harm == "changed":
        file.write_bytes(encoded(photo(2)))
    elif harm == "made a folder":
        file.mkdir()
    with pytest.raises(SourceChangedError, match=r"a\.jpg"):
        read_checked(str(file), "0" * 64)


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "export.json"])
@pytest.mark.timeout(20)
def test_a_list_that_has_no_end_or_no_bottom_is_no_source(tmp_path, name):
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(SourceError, match="it is a device, not a file"):
        list_source(make_run(tmp_path / "w", tmp_path / name))
    if not name.endswith(".csv"):
        (tmp_path / name).unlink()
        (tmp_path / name).write_text('{"path": ' + "[" * 100_000)
        with pytest.raises(SourceError, match="can't be read"):
            list_source(make_run(tmp_path / "w", tmp_path / name))
