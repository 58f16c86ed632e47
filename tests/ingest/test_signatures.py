import os
import time

import pytest

from tasks.ingest import signatures
from tasks.ingest.catalogue import build_catalogue
from tasks.ingest.entries import Entry
from tasks.modality import items
from tasks.storage.tables import read_table
from tests.photos import class_folders, encoded, photo
from tests.runs import make_run


@pytest.fixture
def reads(monkeypatch):
    """The files that are read."""
    read, real = [], items.read_bytes
    monkeypatch.setattr(items, "read_bytes", lambda uri, *bounds: read.append(uri) or real(uri, *bounds))
    return read


@pytest.fixture
def settled(monkeypatch):
    """Every file counts as settled: a change within the clock's grain is not what is tested."""
    monkeypatch.setattr(signatures, "SETTLED_S", 0)


def digests(run) -> dict[str, str]:
    table = read_table(run.workspace, build_catalogue(run).table_path)
    return dict(zip(table["path"], table["sha256"], strict=True))


def test_a_file_is_read_once(tmp_path, reads, settled):
    source = class_folders(tmp_path / "photos", {"cat": 3, "dog": 2})
    first = digests(make_run(tmp_path / "w", source))
    assert len(reads) == 5
    reads.clear()
    class_folders(source, {"cat": 1}, start=50)
    second = digests(make_run(tmp_path / "w", source, "r2"))
    assert len(reads) == 1
    assert {path: second[path] for path in first} == first


def test_a_change_that_keeps_size_and_time_shows(tmp_path, reads, settled):
    source = class_folders(tmp_path / "photos", {"cat": 3, "dog": 2})
    digests(make_run(tmp_path / "w", source))
    file = next((source / "cat").iterdir())
    before, content = file.stat(), file.read_bytes()
    file.write_bytes(content[:-1] + b"\x00")  # behind the end of the picture
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    reads.clear()
    digests(make_run(tmp_path / "w", source, "r2"))
    assert reads == [str(file)]


def test_a_file_that_has_just_changed_has_no_signature(tmp_path, reads):
    source = class_folders(tmp_path / "photos", {"cat": 3})
    file = next((source / "cat").iterdir())
    assert signatures.signature_of(Entry("", str(file), "cat"), file.stat()) is None


def test_one_file_under_two_addresses_has_two_signatures(tmp_path, settled):
    file = tmp_path / "a.jpg"
    file.write_bytes(encoded(photo(1)))
    time.sleep(0.01)
    status = file.stat()
    assert signatures.signature_of(Entry("", str(file), "cat"), status) != signatures.signature_of(
        Entry("", "b", "cat"), status
    )


def test_damaged_signatures_cost_a_reading_and_no_more(tmp_path, reads, settled):
    source = class_folders(tmp_path / "photos", {"cat": 3, "dog": 2})
    run = make_run(tmp_path / "w", source)
    first = digests(run)
    [part] = (tmp_path / "w" / "stamps").iterdir()
    part.write_bytes(part.read_bytes()[:-20])
    reads.clear()
    assert digests(make_run(tmp_path / "w", source, "r2")) == first
    assert len(reads) == 5


def test_an_object_is_read_again_when_its_tag_changes(bucket_url, reads, tmp_path):
    import fsspec

    bucket = bucket_url.rsplit("/", 1)[0]
    fs = fsspec.filesystem("s3")
    for number in range(4):
        fs.pipe(f"{bucket}/photos/{'cat' if number % 2 else 'dog'}/{number}.jpg", encoded(photo(number)))
    first = digests(make_run(tmp_path / "w", f"{bucket}/photos"))
    assert len(reads) == 4
    fs.pipe(f"{bucket}/photos/cat/1.jpg", encoded(photo(9)))
    reads.clear()
    second = digests(make_run(tmp_path / "w", f"{bucket}/photos", "r2"))
    assert len(reads) == 1
    assert {path for path in first if first[path] != second[path]} == {"cat/1.jpg"}
