"""What is listed in a folder and not used is counted and named, and no class is missing without a word."""

from __future__ import annotations

import os
import subprocess

import fsspec
import pytest

from tasks.errors import SourceError
from tasks.ingest.catalogue import build_catalogue
from tasks.ingest.sources import list_source
from tasks.storage.tables import read_table
from tests.photos import class_folders, encoded, photo, save
from tests.runs import make_run


def listing(tmp_path, source, **ingest):
    return list_source(make_run(tmp_path / "workspace", source, config={"ingest": ingest}))


def labels(found):
    return {entry.label for entry in found.entries}


@pytest.mark.parametrize("where", ["dog", "validation", "train/dog"])
@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_class_or_a_split_that_is_a_link_stops_the_run_unless_it_is_followed(tmp_path, where, target):
    source = tmp_path / "photos"
    class_folders(source if where == "dog" else source / "train", {"cat": 1, "eel": 1})
    save(tmp_path / "elsewhere" / ("dog/a.jpg" if where == "validation" else "a.jpg"), photo(9))
    (source / where).symlink_to(tmp_path / target)
    with pytest.raises(SourceError, match=f"{where}: it is a link that leads") as caught:
        listing(tmp_path, source)
    if target == "elsewhere":
        assert "ingest.follow_links = true" in str(caught.value)
        assert "dog" in labels(listing(tmp_path, source, follow_links=True))
    else:
        with pytest.raises(SourceError, match="leads nowhere: No such file"):
            listing(tmp_path, source, follow_links=True)


def test_a_circle_of_links_is_walked_once(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 2, "dog": 1})
    (source / "cat/up").symlink_to(tmp_path)
    (source / "cat/self").symlink_to(source / "cat/self")
    found = listing(tmp_path, source, follow_links=True)
    assert sorted(entry.path for entry in found.entries) == ["cat/00000.jpg", "cat/00001.jpg", "dog/00000.jpg"]
    assert [item.path for item in found.rejected] == ["cat/self"]
    assert found.left_out == {"cat/up/photos": "it is a link to a folder that is listed already"}


def test_a_link_to_another_class_is_no_class(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 2, "dog": 1})
    (source / "a kitten").symlink_to(source / "cat")
    with pytest.raises(SourceError, match="a kitten: it is a link to a folder that is listed already"):
        listing(tmp_path, source)


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "valid", "test"),
        ("Training", "dev", "Testing"),
        ("train2017", "val2017", "test2017"),
        ("train_set", "validation-set", "holdout"),
        ("TRAIN", "Validation", "hold-out"),
        ("training_data", "val_images", "test_images"),
    ],
)
def test_splits_under_their_usual_names(tmp_path, train, validation, test):
    names = {train: "train", validation: "validation", test: "test"}
    for name in names:
        class_folders(tmp_path / "photos" / name, {"cat": 1, "dog": 1})
    found = listing(tmp_path, tmp_path / "photos")
    assert {(e.path.split("/")[0], e.split, e.label) for e in found.entries} == {
        (name, split, label) for name, split in names.items() for label in ("cat", "dog")
    }
    (tmp_path / "list.csv").write_text("path,label,split\n" + "".join(f"{name}.jpg,cat,{name}\n" for name in names))
    assert {e.path[:-4]: e.split for e in listing(tmp_path, tmp_path / "list.csv").entries} == names


def test_folders_that_look_like_splits_of_unknown_names_are_refused_with_what_was_seen(tmp_path):
    for folder in ("fold1", "fold2"):
        class_folders(tmp_path / "photos" / folder, {"cat": 1, "dog": 1})
    with pytest.raises(SourceError, match="fold1/, fold2/, which hold no images, but cat/, dog/ each"):
        listing(tmp_path, tmp_path / "photos")
    assert labels(listing(tmp_path, tmp_path / "photos", layout="classes")) == {"fold1", "fold2"}


def test_classes_may_be_called_like_splits_where_it_is_said(tmp_path):
    for vehicle in ("train", "test"):
        save(tmp_path / "photos" / vehicle / "2024/a.jpg", photo(1))
    assert labels(listing(tmp_path, tmp_path / "photos", layout="classes")) == {"train", "test"}


@pytest.mark.parametrize("place", ["workspace", "cat/workspace", "cat/deep/er"])
def test_the_workspace_inside_the_source_is_never_read(tmp_path, place):
    source = class_folders(tmp_path / "photos", {"cat": 6, "dog": 6})
    run = make_run(source / place, source)
    before = list_source(run).entries
    build_catalogue(run)
    save(source / place / "images/ab/picture.jpg", photo(99))
    after = list_source(run)
    assert after.entries == before
    assert len(after.entries) == 12
    assert after.left_out == {place: "headstart's own workspace"}


def test_the_workspace_can_not_be_the_source(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 6, "dog": 6})
    with pytest.raises(SourceError, match="the workspace can't be the source itself"):
        list_source(make_run(source, source))


def test_a_workspace_in_the_sources_bucket_is_never_read(tmp_path):
    fs = fsspec.filesystem("memory")
    for name in ("bucket/cat/a.jpg", "bucket/dog/b.jpg", "bucket/work/images/ab/c.jpg"):
        fs.pipe_file(f"/{name}", encoded(photo(1)))
    found = list_source(make_run("memory://bucket/work", "memory://bucket"))
    assert labels(found) == {"cat", "dog"}
    assert list(found.left_out) == ["work/images/ab/c.jpg"]


def test_side_files_are_counted_and_not_quarantined(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 6, "dog": 6})
    for photograph in list(source.rglob("*.jpg")):
        photograph.with_suffix(".json").write_text("{}")
    for name in ("cat/b.jpg.crdownload", "cat/c.jpg.part", "dog/notes.txt"):
        (source / name).write_text("x")
    for folder in ("@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "dog/@eaDir"):
        save(source / folder / "thumb.jpg", photo(3))
    ref = build_catalogue(make_run(tmp_path / "w", source))
    assert (ref.images, ref.quarantined) == (12, 0)
    assert ref.left_out == {
        "its name is not an image's (*.json)": 12,
        "a system file or a hidden one": 5,
        "its name is not an image's (*.crdownload)": 1,
        "its name is not an image's (*.part)": 1,
        "its name is not an image's (*.txt)": 1,
    }


def test_a_name_without_a_suffix_says_nothing_and_one_of_an_image_that_is_not_read_is_told(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 1})
    (source / "cat/7f3a").write_bytes(encoded(photo(5)))
    (source / "cat/phone.cr3").write_bytes(b"raw")
    run = make_run(tmp_path / "w", source)
    ref = build_catalogue(run)
    assert (ref.images, ref.quarantined) == (2, 1)


def test_unlabelled_pictures_of_a_test_folder_use_up_no_budget(tmp_path):
    source = class_folders(tmp_path / "photos/train", {"cat": 1, "dog": 1}).parent
    for number in range(5):
        save(source / f"test/{number}.jpg", photo(number))
    found = listing(tmp_path, source)
    assert (len(found.entries), found.rejected) == (2, ())
    assert set(found.left_out.values()) == {"it has no label: it is in no class folder"}


def test_thousands_of_nested_folders_end(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 1, "dog": 1})
    here = os.open(source / "cat", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    try:
        found = listing(tmp_path, source)
        assert len(found.entries) == 2
        assert [item.reason for item in found.rejected] == ["it lies more than 64 folders deep"]
    finally:
        subprocess.run(["rm", "-rf", source], check=True)  # Python's own way recurses


@pytest.fixture
def unreadable(monkeypatch):
    """Folders that may not be listed; for root every folder may be, whatever its permissions."""
    folders: set[str] = set()
    scandir = os.scandir

    def guarded(folder):
        if str(folder) in folders:
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    return folders


def test_a_folder_that_may_not_be_read_is_named(tmp_path, unreadable):
    source = class_folders(tmp_path / "photos", {"cat": 1, "dog": 1})
    save(source / "cat/deep/a.jpg", photo(5))
    unreadable.add(str(source / "cat/deep"))
    [item] = listing(tmp_path, source).rejected
    assert (item.path, item.reason) == ("cat/deep", "the folder can't be read: Permission denied")
    unreadable.add(str(source / "dog"))
    with pytest.raises(SourceError, match="dog: the folder can't be read: Permission denied"):
        listing(tmp_path, source)


def test_keys_that_fsspecs_urls_can_not_hold_are_rejected_by_name(tmp_path):
    fs = fsspec.filesystem("memory")
    for name in ("a.jpg", "b::c.jpg", "d.jpg?versionId=1"):
        fs.pipe_file(f"/odd/cat/{name}", encoded(photo(1)))
    run = make_run(tmp_path / "w", "memory://odd")
    ref = build_catalogue(run)
    assert list(read_table(run.workspace, ref.table_path)["path"]) == ["cat/a.jpg"]
    assert ref.quarantined == 2
