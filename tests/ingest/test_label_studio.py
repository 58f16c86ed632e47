"""Label Studio's JSON export as a source."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tasks.errors import SourceError
from tasks.ingest.entries import Listing
from tasks.ingest.sources import list_source
from tasks.modality.items import read_bytes
from tests.photos import encoded, photo, save
from tests.runs import make_run


def annotation(*choices: str, name: str = "label", **more: Any) -> dict[str, Any]:
    result = {"type": "choices", "from_name": name, "to_name": "image", "value": {"choices": list(choices)}}
    return {"id": 1, "was_cancelled": False, "ground_truth": False, "result": [result], **more}


def task(image: str, *annotations: dict[str, Any], **data: Any) -> dict[str, Any]:
    return {"id": 7, "data": {"image": image, **data}, "annotations": list(annotations), "predictions": []}


def export(folder: Path, *tasks: dict[str, Any], root: str = "") -> Listing:
    folder.mkdir(exist_ok=True)
    (folder / "export.json").write_text(json.dumps(tasks))
    config = {"ingest": {"images_root": root}}
    return list_source(make_run(folder / "w", folder / "export.json", config=config))


def test_uploads_local_storage_and_plain_paths_are_found_below_the_root(tmp_path: Path):
    save(tmp_path / "media/upload/3/a1b2-cat.jpg", photo(1))
    save(tmp_path / "media/more photos/dog.jpg", photo(2))
    save(tmp_path / "media/bird.jpg", photo(3))
    found = export(
        tmp_path / "exports",
        task("/data/upload/3/a1b2-cat.jpg", annotation("cat")),
        task("/data/local-files/?d=more%20photos/dog.jpg", annotation(" dog ")),
        task("bird.jpg", annotation("bird"), split="val"),
        root=str(tmp_path / "media"),
    )
    assert [(entry.path, entry.label, entry.split) for entry in found.entries] == [
        ("bird.jpg", "bird", "validation"),
        ("more photos/dog.jpg", "dog", None),
        ("upload/3/a1b2-cat.jpg", "cat", None),
    ]
    assert all(read_bytes(entry.uri) for entry in found.entries)


def test_the_root_is_the_exports_own_folder_by_default_also_in_a_bucket(tmp_path: Path):
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/studio/cat.jpg", encoded(photo(1)))
    fs.pipe_file("/studio/export.json", json.dumps([task("cat.jpg", annotation("cat"))]).encode())
    [entry] = list_source(make_run(tmp_path / "w", "memory://studio/export.json")).entries
    assert read_bytes(entry.uri) == encoded(photo(1))


def test_addresses_that_may_not_be_read_are_rejected_by_name(tmp_path: Path):
    forbidden = [
        "/data/local-files/?d=../../etc/passwd",
        "/data/local-files/?d=/etc/passwd",
        "/data/../../etc/passwd",
        "/etc/passwd",
        "../secret.jpg",
        "file:///etc/passwd",
        "https://internal.example/a.jpg",
    ]
    found = export(tmp_path, task("ok.jpg", annotation("cat")), *(task(path, annotation("cat")) for path in forbidden))
    assert [entry.path for entry in found.entries] == ["ok.jpg"]
    assert [item.path for item in found.rejected] == forbidden
    assert "ingest.images_root" in found.rejected[-1].reason


def test_an_object_stores_addresses_are_read_where_they_are(tmp_path: Path):
    [entry] = export(tmp_path, task("s3://bucket/cat.jpg", annotation("cat"))).entries
    assert entry.uri == "s3://bucket/cat.jpg"


def test_who_counts_among_annotations(tmp_path: Path):
    found = export(
        tmp_path,
        task("agree.jpg", annotation("cat"), annotation("cat")),
        task("cancelled.jpg", annotation("dog", was_cancelled=True), annotation("cat")),
        task("truth.jpg", annotation("dog"), annotation("cat", ground_truth=True)),
        task("disagree.jpg", annotation("dog"), annotation("cat")),
        task("both.jpg", annotation("dog", "cat")),
        task("nobody.jpg"),
        task("skipped.jpg", {"result": [], "was_cancelled": True}),
    )
    assert [(entry.path, entry.label) for entry in found.entries] == [
        ("agree.jpg", "cat"),
        ("cancelled.jpg", "cat"),
        ("truth.jpg", "cat"),
    ]
    assert [item.path for item in found.rejected] == ["disagree.jpg", "both.jpg"]
    assert "disagree: 'cat' (1), 'dog' (1)" in found.rejected[0].reason
    assert found.left_out == {"task 7": "it has no label yet"}


def test_the_image_may_have_another_name_if_it_is_the_only_one(tmp_path: Path):
    found = export(
        tmp_path,
        {"id": 1, "data": {"picture": "a.png", "text": "a note"}, "annotations": [annotation("cat")]},
        {"id": 2, "data": {"left": "a.png", "right": "b.png"}, "annotations": [annotation("cat")]},
    )
    assert [entry.path for entry in found.entries] == ["a.png"]
    assert [item.path for item in found.rejected] == ["task 2"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "can't be read"),
        ('{"data": {}}', "not Label Studio's JSON export"),
        ('[{"id": 1, "image": "a.jpg", "choice": "cat"}]', "not JSON-MIN"),
        (json.dumps([task("a.jpg")]), "no labelled image among 1 tasks"),
        (json.dumps([task("a.jpg", annotation("x"), annotation("y", name="light"))]), "several classifications"),
    ],
)
def test_a_file_that_is_no_export_says_what_is_needed(tmp_path: Path, content: str, says: str):
    (tmp_path / "export.json").write_text(content)
    with pytest.raises(SourceError, match=says):
        list_source(make_run(tmp_path / "w", tmp_path / "export.json"))


ADDRESSES = {
    "/data/upload/1/a.jpg": "upload/1/a.jpg",
    "/data/upload/1/my%20cat.jpg": "upload/1/my cat.jpg",
    "/data/upload/1/gr%C3%BC%C3%9Fe.jpg": "upload/1/grüße.jpg",
    "http://localhost:8080/data/upload/1/a.jpg": "upload/1/a.jpg",
    "https://studio.example/label-studio/data/upload/1/my%20cat.jpg?x=1": "upload/1/my cat.jpg",
    "/label-studio/data/upload/1/a.jpg": "upload/1/a.jpg",
    "upload/1/a.jpg": "upload/1/a.jpg",
    "upload/1/100%25.jpg": "upload/1/100%25.jpg",
    "/data/local-files/?d=cats/a+b.jpg": "cats/a+b.jpg",
    "/data/local-files/?d=cats/a+space.jpg": "cats/a space.jpg",
    "/data/local-files/?d=cats%2Fa%2Bb.jpg": "cats/a+b.jpg",
    "/data/local-files/?d=cats\\a+b.jpg": "cats/a+b.jpg",
    "http://localhost:8080/data/local-files/?d=cats/a+b.jpg&x=1": "cats/a+b.jpg",
    "/label-studio/data/local-files/?d=cats/a+b.jpg": "cats/a+b.jpg",
    "/storage-data/uploaded/?filepath=upload/1/a.jpg": "upload/1/a.jpg",
    "https://app.example/storage-data/uploaded/?filepath=upload%2F1%2Fa.jpg": "upload/1/a.jpg",
    "/tasks/7/resolve/?fileuri=" + base64.b64encode(b"s3://bucket/cats/a.jpg").decode(): "s3://bucket/cats/a.jpg",
    "https://app.example/tasks/7/presign/?fileuri="
    + base64.urlsafe_b64encode(b"s3://bucket/cats/b.jpg").decode().rstrip("="): "s3://bucket/cats/b.jpg",
    "s3://bucket/my cat+1.jpg": "s3://bucket/my cat+1.jpg",
}
FILES = (
    "upload/1/a.jpg",
    "upload/1/my cat.jpg",
    "upload/1/grüße.jpg",
    "upload/1/100%25.jpg",
    "cats/a+b.jpg",
    "cats/a space.jpg",
)


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_form_of_address_finds_its_file(tmp_path: Path, address: str):
    for file in FILES:
        save(tmp_path / "media" / file, photo(1))
    found = export(tmp_path / "exports", task(address, annotation("cat")), root=str(tmp_path / "media"))
    assert [entry.path for entry in found.entries] == [ADDRESSES[address]]
    if "://" not in found.entries[0].uri:
        assert read_bytes(found.entries[0].uri)


def test_an_absolute_path_below_the_root_is_found(tmp_path: Path):
    file = save(tmp_path / "media/cats/a.jpg", photo(1))
    found = export(tmp_path, task(f"/data/local-files/?d={file}", annotation("cat")), root=str(tmp_path / "media"))
    assert [entry.path for entry in found.entries] == ["cats/a.jpg"]


def test_an_address_that_finds_nothing_says_what_was_tried(tmp_path: Path):
    hidden = "/data/upload/%2e%2e/%2e%2e/secret.jpg"
    found = export(
        tmp_path, task("ok.jpg", annotation("cat")), *(task(p, annotation("cat")) for p in ("a%20b.jpg", hidden))
    )
    assert f"no such file below {tmp_path} (ingest.images_root); tried a b.jpg, a%20b.jpg" in found.rejected[0].reason
    assert [item.path for item in found.rejected] == ["a%20b.jpg"]
    assert [entry.path for entry in found.entries] == ["ok.jpg", "upload/%2e%2e/%2e%2e/secret.jpg"]


def test_a_label_that_is_no_text_is_named(tmp_path: Path):
    found = export(tmp_path, task("a.jpg", annotation(1.0)), task("b.jpg", annotation(["x"])))  # type: ignore[arg-type]
    assert [(entry.path, entry.label) for entry in found.entries] == [("a.jpg", "1"), ("b.jpg", "['x']")]
