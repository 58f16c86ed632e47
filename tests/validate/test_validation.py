import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

import expectations
from tasks.errors import InvalidDataError
from tasks.ingest.catalogue import build_catalogue
from tasks.ingest.sources import with_task
from tasks.records import Run
from tasks.split.assign import make_snapshot
from tasks.storage.corrections import Correction, decide
from tasks.storage.quarantine import disputed, run_quarantine
from tasks.storage.tables import read_table
from tasks.validate.docs import build_docs
from tasks.validate.suite import load_suite
from tasks.validate.validation import validate
from tests.photos import class_folders, photo, save
from tests.runs import make_catalogue, make_run

IMAGES_SUITE = Path(expectations.__file__).parent / "images.json"


def run_validation(tmp_path, source, config=None):
    run = make_run(tmp_path / "w", source, config=config)
    return run, validate(run, build_catalogue(run))


def findings(run):
    return {item["expectation"]: item for item in run.workspace.read_json(run.path("validation.json"))}


def test_sound_data_passes_whole(tmp_path):
    run, ref = run_validation(tmp_path, class_folders(tmp_path / "photos", {"cat": 6, "dog": 6}))
    assert (ref.images, ref.quarantined, ref.table_path) == (12, 0, "runs/r1/validated.parquet")
    assert all(item["success"] for item in findings(run).values())
    assert set(findings(run)) == {rule["meta"]["name"] for rule in load_suite("images")["expectations"]} | {
        "quarantine-budget"
    }


def test_data_docs_are_built_without_the_tracking_picture(tmp_path):
    run, _ = run_validation(tmp_path, class_folders(tmp_path / "photos", {"cat": 6, "dog": 6}))
    build_docs(run, make_catalogue(run))
    pages = list((tmp_path / "w/runs/r1/data_docs").rglob("*.html"))
    assert tmp_path / "w/runs/r1/data_docs/index.html" in pages
    assert not any("great-expectations-web-assets" in page.read_text() for page in pages)


def test_a_blank_picture_is_quarantined_by_name_and_the_run_goes_on(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 8, "dog": 8})
    save(source / "cat/blank.png", Image.new("RGB", (40, 40), "grey"))
    save(source / "dog/strip.png", photo(77, size=(400, 12)))
    run, ref = run_validation(tmp_path, source)
    reasons = {entry.path: entry.reason for entry in run_quarantine(run)}
    assert (ref.images, ref.quarantined) == (16, 2)
    assert reasons["cat/blank.png"].startswith("contrast is 0.0, expected at least 0.01 (not-blank: ")
    assert reasons["dog/strip.png"].startswith("aspect_ratio is 33.33, expected at most 10")
    assert findings(run)["not-blank"]["unexpected_count"] == 1
    assert findings(run)["not-blank"]["examples"] == [{"path": "cat/blank.png", "value": 0.0}]
    assert "cat/blank.png" not in set(read_table(run.workspace, ref.table_path)["path"])


def test_a_small_class_is_left_out_by_name_until_it_has_grown(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 6, "dog": 6, "eel": 1})
    run, ref = run_validation(tmp_path, source)
    [entry] = run_quarantine(run)
    assert (ref.images, entry.label) == (12, "eel")
    assert "class_images is 1, expected at least 5" in entry.reason
    class_folders(source, {"eel": 5}, start=50)
    run = make_run(tmp_path / "w", source, "r2")
    assert validate(run, build_catalogue(run)).images == 18


def test_a_class_that_quarantine_makes_too_small_goes_too(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 9, "dog": 9, "eel": 4})
    save(source / "eel/blank.png", Image.new("RGB", (40, 40), "grey"))
    run, ref = run_validation(tmp_path, source, {"validate": {"max_quarantined_share": 0.5}})
    assert (ref.images, ref.quarantined) == (18, 5)
    assert findings(run)["images-per-class"]["unexpected_count"] == 4


@pytest.mark.parametrize("others", [{}, {"dog": 1}], ids=["one class", "a second one of a single image"])
def test_fewer_than_two_classes_stop_the_run_and_what_was_found_is_named(tmp_path, others):
    with pytest.raises(InvalidDataError) as caught:
        run_validation(tmp_path, class_folders(tmp_path / "photos", {"cat": 6} | others))
    assert caught.value.exit_status == 4
    assert "expected at least 2; found 1" in str(caught.value)
    assert "the classes left are 'cat' (6 images)" in str(caught.value)
    if others:
        assert "with them all of the classes 'dog' (1 image)" in str(caught.value)
    assert (tmp_path / "w/runs/r1/validation.json").exists()
    assert (tmp_path / "w/runs/r1/data_docs/index.html").exists()


def test_no_usable_image_at_all_stops_the_run(tmp_path):
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/cat/bad.jpg").write_bytes(b"no picture")
    with pytest.raises(InvalidDataError, match="some-images"):
        run_validation(tmp_path, tmp_path / "photos")


def test_a_quarantine_over_budget_stops_the_run(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 6, "dog": 6})
    for number in range(4):
        (source / f"cat/bad{number}.jpg").write_bytes(f"no picture {number}".encode())
    run = make_run(tmp_path / "w", source)
    with pytest.raises(InvalidDataError, match=r"at most 20.0% .*found 4 of 16 files \(25.0%\)"):
        validate(run, build_catalogue(run))
    with pytest.raises(InvalidDataError):  # a retry counts nothing twice
        validate(run, build_catalogue(run))
    assert findings(run)["quarantine-budget"]["observed"] == "4 of 16 files (25.0%)"


def test_a_warning_is_reported_and_no_more(tmp_path, caplog):
    source = class_folders(tmp_path / "photos", {"cat": 6, "dog": 6})
    save(source / "cat/night.png", photo(5, size=(80, 60)).point([v // 40 for v in range(256)] * 3))
    run, ref = run_validation(tmp_path, source, {"validate": {"suite": str(lenient(tmp_path))}})
    assert (ref.images, findings(run)["brightness"]["success"]) == (13, False)
    assert "night.png" in caplog.text


def lenient(tmp_path):
    """The suite without its rule on blank pictures, which a picture of the night may fail, too."""
    suite = json.loads(IMAGES_SUITE.read_text())
    suite["expectations"] = [rule for rule in suite["expectations"] if rule["meta"]["name"] != "not-blank"]
    path = tmp_path / "lenient.json"
    path.write_text(json.dumps(suite))
    return path


def test_an_expectation_that_can_not_be_evaluated_stops_the_run(tmp_path):
    suite = json.loads(IMAGES_SUITE.read_text())
    suite["expectations"].append(
        {
            "type": "expect_column_values_to_not_be_null",
            "kwargs": {"column": "colour"},
            "meta": {"name": "colour", "severity": "quarantine"},
        }
    )
    (tmp_path / "suite.json").write_text(json.dumps(suite))
    source = class_folders(tmp_path / "photos", {"cat": 6, "dog": 6})
    with pytest.raises(InvalidDataError, match=r'"colour".*does not exist'):
        run_validation(tmp_path, source, {"validate": {"suite": str(tmp_path / "suite.json")}})


def test_copies_count_as_files_of_the_source(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 6, "dog": 6})
    shutil.copy(source / "cat/00000.jpg", source / "cat/copy.jpg")
    run, _ = run_validation(tmp_path, source)
    assert findings(run)["quarantine-budget"]["observed"] == "0 of 13 files (0.0%)"


def reasons_of(run):
    return {entry.path: entry.reason for entry in run_quarantine(run)}


def test_the_same_pixels_under_two_labels_are_quarantined_with_both_named(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 8, "dog": 8})
    save(source / "cat/a.png", photo(1, size=(320, 240)))
    save(source / "dog/b.bmp", photo(1, size=(320, 240)))
    run, ref = run_validation(tmp_path, source)
    reasons = reasons_of(run)
    assert (ref.images, set(reasons)) == (16, {"cat/a.png", "dog/b.bmp"})
    for reason in reasons.values():
        assert "one-label-per-picture" in reason
        assert "'cat' (cat/a.png)" in reason
        assert "'dog' (dog/b.bmp)" in reason
    [question] = disputed(run_quarantine(run))
    assert {entry.path: entry.label for entry in question} == {"cat/a.png": "cat", "dog/b.bmp": "dog"}
    for entry in question:  # as the review does, when a person decides
        decide(run.workspace, Correction(sha256=str(entry.sha256), label="cat"))
    again = make_run(tmp_path / "w", source, run_id="r2")
    assert validate(again, build_catalogue(again)).images == 18
    assert run_quarantine(again) == []


def test_the_same_words_under_two_labels_are_one_question_to_a_person(tmp_path):
    rows = [(f"where is my {thing}?", "arrival") for thing in ("card", "letter", "parcel", "phone", "coat", "money")]
    rows += [(f"I was charged {often}", "charge") for often in ("twice", "wrongly", "today", "again", "for it")]
    rows += [("Where is my CARD", "charge")]
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))

    def passed(run_id: str) -> Run:
        run = with_task(make_run(tmp_path / "w", tmp_path / "t.csv", run_id=run_id))
        validate(run, build_catalogue(run))
        return run

    [question] = disputed(run_quarantine(passed("r1")))
    assert {entry.path: entry.label for entry in question} == {"line 2": "arrival", "line 13": "charge"}
    assert all("one-label-per-text" in entry.reason for entry in question)
    run = make_run(tmp_path / "w", tmp_path / "t.csv")
    for entry in question:
        decide(run.workspace, Correction(sha256=str(entry.sha256), label="arrival"))
    assert run_quarantine(passed("r2")) == []


def test_what_is_left_out_for_itself_alone_is_no_question_of_labels(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 8, "dog": 8})
    for place in ("cat/a.png", "dog/b.png"):
        save(source / place, photo(len(place) + ord(place[0]), size=(400, 12)))
    run, _ = run_validation(tmp_path, source)
    assert len(run_quarantine(run)) == 2
    assert disputed(run_quarantine(run)) == []


def test_pictures_of_one_scene_under_two_labels_are_a_warning_and_share_a_split(tmp_path, caplog):
    source = class_folders(tmp_path / "photos", {"cat": 8, "dog": 8})
    scene = photo(1, size=(320, 240))
    for number in range(12):
        moved = scene.copy()
        moved.paste(photo(100 + number, size=(24, 18)), (10 * number, 100))
        save(source / ("cat" if number % 2 else "dog") / f"camera{number}.jpg", moved, quality=80 + number)
    run, ref = run_validation(tmp_path, source)
    assert (ref.images, reasons_of(run)) == (28, {})
    assert findings(run)["one-label-per-scene"]["unexpected_count"] == 12
    assert "validate.near_duplicates" in caplog.text
    table = read_table(run.workspace, make_snapshot(run, ref).table_path)
    assert table[table["path"].str.contains("camera")]["split"].nunique() == 1


def test_a_stop_for_the_quarantine_gives_its_commonest_reasons(tmp_path):
    source = class_folders(tmp_path / "photos", {"cat": 6, "dog": 6})
    for number in range(3):
        (source / f"cat/text{number}.jpg").write_bytes(f"no picture {number}".encode())
    for number in range(4):
        content = (source / "dog" / f"0000{number}.jpg").read_bytes()
        (source / f"dog/cut{number}.jpg").write_bytes(content[: -60 - number])
    save(source / "cat/blank.png", Image.new("RGB", (40, 40), "grey"))
    with pytest.raises(InvalidDataError) as caught:
        run_validation(tmp_path, source)
    [reasons] = [reason for reason in caught.value.reasons if "commonest" in reason]
    cut, text, blank = reasons.split("; ")[:3]
    assert cut.startswith("the commonest reasons: 4 files: the image is truncated or damaged: ")
    assert cut.endswith("(such as dog/cut0.jpg)")
    assert text.startswith("3 files: not an image of a supported kind")
    assert blank.startswith("1 file: contrast is 0.0")
