import json

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import SourceError
from tasks.ingest.sources import list_source
from tasks.modality.items import read_bytes
from tests.photos import class_folders, encoded, photo, save
from tests.runs import make_run


def listing(tmp_path, source):
    return list_source(make_run(tmp_path / "workspace", source))


def test_class_folders_give_labels_and_no_split(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 2, "dog": 1})
    entries = listing(tmp_path, source).entries
    assert [(e.path, e.label, e.split) for e in entries] == [
        ("cat/00000.jpg", "cat", None),
        ("cat/00001.jpg", "cat", None),
        ("dog/00000.jpg", "dog", None),
    ]
    assert read_bytes(entries[0].uri) == (source / "cat/00000.jpg").read_bytes()


@pytest.mark.parametrize("validation", ["validation", "val", "Val"])
def test_split_folders_give_splits(tmp_path, validation):
    for folder in ("train", validation, "test"):
        class_folders(tmp_path / "photos" / folder, {"cat": 1, "dog": 1})
    found = {(e.split, e.label) for e in listing(tmp_path, tmp_path / "photos").entries}
    assert found == {(s, c) for s in ("train", "validation", "test") for c in ("cat", "dog")}


def test_train_among_other_classes_is_a_class(tmp_path):
    source = class_folders(tmp_path / "photos", {"train": 1, "bus": 1})
    assert {(e.label, e.split) for e in listing(tmp_path, source).entries} == {("train", None), ("bus", None)}


def test_splits_beside_classes_are_refused(tmp_path):
    source = class_folders(tmp_path / "photos", {"train": 1, "test": 1, "bus": 1})
    with pytest.raises(SourceError, match="test/, train/ beside bus/"):
        listing(tmp_path, source)


def test_folders_below_a_class_belong_to_it(tmp_path):
    save(tmp_path / "photos/cat/indoors/2024/a.jpg", photo(1))
    assert listing(tmp_path, tmp_path / "photos").entries[0].label == "cat"


def test_litter_is_skipped_and_counted(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 1, "dog": 1})
    for litter in (
        ".DS_Store",
        "cat/.DS_Store",
        "cat/Thumbs.db",
        "dog/desktop.ini",
        "__MACOSX/cat/._a.jpg",
        "README.md",
    ):
        (source / litter).parent.mkdir(parents=True, exist_ok=True)
        (source / litter).write_text("x")
    found = listing(tmp_path, source)
    assert (len(found.entries), found.rejected) == (2, ())
    assert sorted(found.left_out) == [
        ".DS_Store",
        "README.md",
        "__MACOSX",
        "cat/.DS_Store",
        "cat/Thumbs.db",
        "dog/desktop.ini",
    ]


def test_an_image_without_a_class_folder_is_left_out_by_name(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 1})
    save(source / "loose.jpg", photo(9))
    found = listing(tmp_path, source)
    assert found.left_out == {"loose.jpg": "it has no label: it is in no class folder"}
    assert found.rejected == ()


def test_odd_names_work(tmp_path):
    name = "Grüße, \"quoted\" & 'single' 日本.jpg"
    save(tmp_path / "photos/pâte à choux" / name, photo(1))
    [entry] = listing(tmp_path, tmp_path / "photos").entries
    assert (entry.path, entry.label) == (f"pâte à choux/{name}", "pâte à choux")
    assert read_bytes(entry.uri)


def test_one_label_however_its_accent_is_spelt(tmp_path):
    save(tmp_path / "photos/caf\u00e9/a.jpg", photo(1))
    save(tmp_path / "photos/cafe\u0301/b.jpg", photo(2))
    assert {entry.label for entry in listing(tmp_path, tmp_path / "photos").entries} == {"café"}


def test_links_out_of_the_source_are_not_followed(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 1})
    secret = save(tmp_path / "elsewhere/secret.jpg", photo(3))
    (source / "cat/link.jpg").symlink_to(secret)
    (source / "cat/folder").symlink_to(secret.parent)
    (source / "cat/loop").symlink_to(source / "cat")
    (source / "cat/inside.jpg").symlink_to(source / "cat/00000.jpg")
    found = listing(tmp_path, source)
    assert [entry.path for entry in found.entries] == ["cat/00000.jpg", "cat/inside.jpg"]
    assert [item.path for item in found.rejected] == ["cat/folder", "cat/link.jpg"]
    assert "ingest.follow_links" in found.rejected[0].reason
    assert found.left_out == {"cat/loop": "it is a link to a folder that is listed already"}


def test_a_name_that_is_not_utf8_is_rejected(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 1})
    with open(bytes(source / "cat") + b"/\xff.jpg", "wb") as file:  # noqa: PTH123 - Path can't hold such a name
        file.write(encoded(photo(1)))
    [item] = listing(tmp_path, source).rejected
    assert item.path == "cat/\\udcff.jpg"
    assert "UTF-8" in item.reason


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is empty"),
        (lambda path: (path / "cat").mkdir(parents=True), "is empty"),
        (lambda path: path.write_text("x"), "file of an unknown kind"),
        (lambda path: save(path / "a.jpg", photo(1)), "no class folder with a file in it"),
    ],
    ids=["missing", "empty", "empty classes", "unknown file", "no classes"],
)
def test_a_source_that_is_none_says_so_and_what_is_allowed(tmp_path, make, says):
    make(tmp_path / "photos")
    with pytest.raises(SourceError, match=says) as caught:
        listing(tmp_path, tmp_path / "photos")
    assert "sub-folder for each class" in str(caught.value)


def test_a_protocol_that_is_unknown(tmp_path):
    with pytest.raises(SourceError, match="can't be opened"):
        listing(tmp_path, "nonsense://bucket/photos")


def test_a_remote_folder(tmp_path):
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/photos/cat/a b.jpg", encoded(photo(1)))
    fs.pipe_file("/photos/cat/Thumbs.db", b"x")
    found = listing(tmp_path, "memory://photos")
    assert [(e.path, e.label) for e in found.entries] == [("cat/a b.jpg", "cat")]
    assert read_bytes(found.entries[0].uri) == encoded(photo(1))


ROWS = [("a.jpg", "1", "train"), ("sub/b.jpg", "2", "val"), ("c.jpg", "2", "")]


def write_manifest(path, rows=ROWS):
    if path.suffix == ".csv":
        lines = ["path,label,split", *(",".join(f'"{cell}"' for cell in row) for row in rows)]
        path.write_text("\n".join(lines), encoding="utf-8-sig")
    elif path.suffix == ".jsonl":
        lines = [json.dumps({"path": p, "label": int(c), "split": s or None}) for p, c, s in rows]
        path.write_text("\n".join(lines) + "\n")
    else:
        columns = dict(zip(("path", "label", "split"), map(list, zip(*rows, strict=True)), strict=True))
        pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_manifests(tmp_path, suffix):
    for name, _, _ in ROWS:
        save(tmp_path / name, photo(1))
    entries = listing(tmp_path, write_manifest(tmp_path / f"list{suffix}")).entries
    assert [(e.path, e.label, e.split) for e in entries] == [
        ("a.jpg", "1", "train"),
        ("c.jpg", "2", None),
        ("sub/b.jpg", "2", "validation"),
    ]
    assert all(read_bytes(entry.uri) for entry in entries)


def test_a_manifest_names_each_line_that_it_can_not_use(tmp_path):
    rows = [("a.jpg", "1", ""), ("../out.jpg", "1", ""), ("b.jpg", "", ""), ("c.jpg", "1", "spare"), ("", "1", "")]
    found = listing(tmp_path, write_manifest(tmp_path / "list.csv", rows))
    assert [entry.path for entry in found.entries] == ["../out.jpg", "a.jpg"]
    assert [item.path for item in found.rejected] == ["c.jpg", "(no path)"]
    assert (
        "line 5 of the manifest: its split is 'spare'; allowed are train, validation, test" in found.rejected[0].reason
    )
    assert found.left_out == {"b.jpg": "it has no label"}


def test_a_remote_manifest_can_not_name_local_files(tmp_path):
    lines = "path,label\n/etc/passwd,x\nfile:///etc/passwd,x\nok.jpg,x\nmemory://photos/other.jpg,x\n"
    fsspec.filesystem("memory").pipe_file("/photos/list.csv", lines.encode())
    found = listing(tmp_path, "memory://photos/list.csv")
    assert [item.path for item in found.rejected] == ["/etc/passwd", "file:///etc/passwd"]
    assert [entry.uri for entry in found.entries] == ["memory://photos/other.jpg", "memory:///photos/ok.jpg"]


@pytest.mark.parametrize(
    ("content", "says"),
    [("file,class\na,b\n", "no column path and no column label; found file, class"), ("path,label\n", "no line")],
)
def test_a_manifest_that_is_none(tmp_path, content, says):
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(SourceError, match=says):
        listing(tmp_path, tmp_path / "list.csv")
