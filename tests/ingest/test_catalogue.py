import hashlib
import shutil

import numpy as np
import pytest
from PIL import ImageEnhance, ImageOps

from tasks.ingest.catalogue import build_catalogue
from tasks.modality.images import inspection
from tasks.storage.quarantine import read_entries, register_path, run_quarantine
from tasks.storage.tables import read_table
from tests import photos
from tests.photos import class_folders, encoded, photo, save
from tests.runs import make_run


def catalogue(run):
    ref = build_catalogue(run)
    return ref, read_table(run.workspace, ref.table_path)


def test_each_image_is_known_by_its_content(tmp_path):
    run = make_run(tmp_path / "w", class_folders(tmp_path / "photos", {"cat": 3, "dog": 2}))
    ref, table = catalogue(run)
    assert (ref.images, ref.quarantined) == (5, 0)
    assert list(table["sha256"]) == sorted(table["sha256"])
    for row in table.itertuples():
        content = (tmp_path / "photos" / row.path).read_bytes()
        assert (row.sha256, row.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))
        assert (row.width_px, row.height_px, row.format, row.mode) == (48, 36, "JPEG", "RGB")


def test_what_was_inspected_once_is_not_decoded_again(tmp_path, monkeypatch):
    source = class_folders(tmp_path / "photos", {"cat": 3, "dog": 2})
    _, first = catalogue(make_run(tmp_path / "w", source))
    inspected = []
    monkeypatch.setattr(inspection, "inspect", lambda *args: inspected.append(args) or REAL_INSPECT(*args))
    class_folders(source, {"cat": 1}, start=50)
    _, second = catalogue(make_run(tmp_path / "w", source, "r2"))
    assert len(inspected) == 1
    assert second[second["sha256"].isin(first["sha256"])].reset_index(drop=True).equals(first)


REAL_INSPECT = inspection.inspect


def test_odd_kinds_of_image_are_accepted(tmp_path):
    folder = tmp_path / "photos/odd"
    folder.mkdir(parents=True)
    kinds = {
        "deep.png": photos.sixteen_bit_png(),
        "palette.png": photos.palette_png(),
        "cmyk.jpg": photos.cmyk_jpeg(),
        "turned.jpg": photos.turned_jpeg(),
        "moving.gif": photos.animated_gif(),
        "modern.webp": photos.webp(),
    }
    for name, content in kinds.items():
        (folder / name).write_bytes(content)
    ref, table = catalogue(make_run(tmp_path / "w", tmp_path / "photos"))
    found = table.set_index("path")
    assert (ref.images, ref.quarantined) == (6, 0)
    assert found.loc["odd/cmyk.jpg", "mode"] == "CMYK"
    assert list(found.loc["odd/turned.jpg", ["width_px", "height_px"]]) == [40, 60]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (photos.truncated_jpeg(), "truncated"),
        (b"not a picture at all\n", "not an image of a supported kind"),
        (b"", "empty"),
    ],
    ids=["truncated", "text", "empty"],
)
def test_what_is_no_usable_image_is_quarantined_by_name(tmp_path, content, says):
    source = class_folders(tmp_path / "photos", {"cat": 2})
    (source / "cat/bad.jpg").write_bytes(content)
    run = make_run(tmp_path / "w", source)
    ref, table = catalogue(run)
    [entry] = run_quarantine(run)
    assert (ref.images, ref.quarantined, len(table)) == (2, 1, 2)
    assert (entry.path, entry.label, entry.sha256) == ("cat/bad.jpg", "cat", hashlib.sha256(content).hexdigest())
    assert says in entry.reason
    assert (entry.run_id, entry.date) == ("r1", "2026-01-02T03:04:05Z")


@pytest.mark.parametrize(
    ("key", "bound"), [("max_bytes", 800), ("max_pixels", 48 * 36 - 1)], ids=["file size", "pixels"]
)
def test_bounds(tmp_path, key, bound):
    source = class_folders(tmp_path / "photos", {"cat": 2})
    catalogue(make_run(tmp_path / "w", source))  # inspected while the bound was higher
    run = make_run(tmp_path / "w", source, "r2", {"ingest": {key: bound}})
    ref, _ = catalogue(run)
    assert (ref.images, ref.quarantined) == (0, 2)
    assert f"ingest.{key}" in run_quarantine(run)[0].reason


def test_copies_under_one_label_are_one_image(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 2})
    shutil.copy(source / "cat/00000.jpg", source / "cat/copy.jpg")
    _, table = catalogue(make_run(tmp_path / "w", source))
    assert sorted(zip(table["path"], table["copies"], strict=True)) == [("cat/00000.jpg", 2), ("cat/00001.jpg", 1)]


def test_of_copies_in_several_splits_the_one_in_test_counts(tmp_path, caplog):
    for split in ("train", "test", "validation"):
        save(tmp_path / "photos" / split / "cat/a.jpg", photo(1))
    ref, table = catalogue(make_run(tmp_path / "w", tmp_path / "photos"))
    assert list(table["split"]) == ["test"]
    assert "1 images are in several splits of the source, such as train/cat/a.jpg, validation/cat/a.jpg" in caplog.text
    assert ref.left_out == {"a copy of an image in another split, which is used there": 2}


def test_one_picture_under_two_labels_is_quarantined_with_both_named(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 2, "dog": 2})
    shutil.copy(source / "cat/00000.jpg", source / "dog/same.jpg")
    run = make_run(tmp_path / "w", source)
    ref, _ = catalogue(run)
    assert (ref.images, ref.quarantined) == (3, 2)
    assert {entry.path: entry.reason for entry in run_quarantine(run)} == {
        "cat/00000.jpg": "the same image also has the label 'dog' (dog/same.jpg)",
        "dog/same.jpg": "the same image also has the label 'cat' (cat/00000.jpg)",
    }


def test_the_register_holds_each_reason_once_over_all_runs(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 2})
    (source / "cat/bad.jpg").write_bytes(b"no")
    runs = [make_run(tmp_path / "w", source, run_id) for run_id in ("r1", "r2", "r2")]
    assert [build_catalogue(run).quarantined for run in runs] == [1, 1, 1]
    [entry] = read_entries(runs[0].workspace, register_path("shapes"))
    assert entry.run_id == "r1"


def test_source_files_are_left_as_they_are(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 2})
    (source / "cat/bad.jpg").write_bytes(photos.truncated_jpeg())
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in source.rglob("*.jpg")}
    catalogue(make_run(tmp_path / "w", source))
    assert before == {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in source.rglob("*") if path.is_file()
    }


def test_progress_is_told_file_by_file(tmp_path):
    told = []
    run = make_run(tmp_path / "w", class_folders(tmp_path / "photos", {"cat": 3}))
    build_catalogue(run, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_truncation_shows_at_reduced_scale_as_it_does_at_full_scale():
    content = encoded(photo(1, size=(640, 480)), quality=90)
    for share in (0.2, 0.5, 0.8, 0.95, 0.99):
        assert inspection.inspect(content[: int(len(content) * share)], 10**8).fault
    assert inspection.inspect(content, 10**8).fault is None


def test_figures_tell_dark_blank_and_blurred_pictures_apart():
    sharp = photo(1, size=(256, 192))
    usual = inspection.inspect(encoded(sharp), 10**8)
    blurred = inspection.inspect(encoded(sharp.resize((16, 12)).resize((256, 192))), 10**8)
    dark = inspection.inspect(encoded(sharp.point([v // 20 for v in range(256)] * 3)), 10**8)
    blank = inspection.inspect(encoded(sharp.point([128] * 768)), 10**8)
    assert blurred.sharpness < usual.sharpness / 4
    assert dark.brightness < 0.05 < usual.brightness
    assert blank.contrast < 0.005 < usual.contrast


def hash_of(picture, **options):
    """float64 [2, 64]: of the whole and of the inner part, each of length 1."""
    content = inspection.inspect(encoded(picture, **options), 10**8).phash
    halves = np.frombuffer(content, np.int8).astype(float).reshape(2, 64)
    return halves / np.linalg.norm(halves, axis=1, keepdims=True)


def test_the_perceptual_hash_outlives_what_copies_go_through():
    picture = photo(1, size=(640, 480))
    whole, inner = hash_of(picture)
    odd_columns = np.where(np.arange(64) % 2, -1, 1)
    assert whole @ hash_of(picture.resize((200, 150)), quality=40)[0] > 0.99
    assert whole @ hash_of(ImageEnhance.Brightness(picture).enhance(0.7))[0] > 0.98
    assert whole * odd_columns @ hash_of(ImageOps.mirror(picture))[0] > 0.99
    assert inner @ hash_of(picture.crop((16, 12, 624, 468)))[0] > 0.99
    assert abs(whole @ hash_of(photo(2, size=(640, 480)))[0]) < 0.7


@pytest.mark.skipif(not photos.SHARED_CLOTHING.exists(), reason="needs the photographs in ../shared")
def test_real_photographs(tmp_path):
    ref, table = catalogue(make_run(tmp_path / "w", photos.SHARED_CLOTHING / "validation"))
    assert (ref.images, ref.quarantined, table["label"].nunique()) == (341, 0, 10)
    assert table["sharpness"].min() > 10
