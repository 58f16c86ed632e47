"""Texts as a source: tables, exports and folders of them; what is found, what is left out, and by which name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tasks.errors import ConfigError, SourceError
from tasks.ingest.catalogue import build_catalogue
from tasks.ingest.listing import arrivals, listing_table
from tasks.ingest.sources import list_source, with_task
from tasks.modality.items import read_bytes, uri_of_text
from tasks.records import Run
from tasks.storage.corrections import Correction, Corrections, decide
from tasks.storage.quarantine import run_quarantine
from tasks.storage.tables import read_table
from tests import photos
from tests.runs import make_run

ROWS = [("Where is my card?", "arrival"), ("The card never came", "arrival"), ("I was charged twice", "charge")]


def found(tmp_path: Path, source: Path, **ingest: str) -> Run:
    return with_task(make_run(tmp_path / "w", source, config={"ingest": ingest}))


def catalogue(run: Run) -> pd.DataFrame:
    return read_table(run.workspace, build_catalogue(run).table_path)


def test_a_text_with_two_labels_is_left_out_as_a_text(tmp_path: Path):
    pd.DataFrame([*ROWS, ("Where is  my card?", "charge")], columns=["text", "label"]).to_csv(tmp_path / "t.csv")
    run = found(tmp_path, tmp_path / "t.csv")
    assert len(catalogue(run)) == 2
    assert {entry.path: entry.reason for entry in run_quarantine(run)} == {
        "line 2": "the same text also has the label 'charge' (line 5)",
        "line 5": "the same text also has the label 'arrival' (line 2)",
    }


def csv_file(folder: Path) -> Path:
    pd.DataFrame(ROWS, columns=["text", "category"]).to_csv(folder / "t.csv", index=False)
    return folder / "t.csv"


def json_file(folder: Path) -> Path:
    pd.DataFrame(ROWS, columns=["text", "label"]).to_json(folder / "t.jsonl", orient="records", lines=True)
    return folder / "t.jsonl"


def parquet_file(folder: Path) -> Path:
    pd.DataFrame(ROWS, columns=["Text", "intent"]).to_parquet(folder / "t.parquet")
    return folder / "t.parquet"


def export(folder: Path) -> Path:
    tasks = [
        {
            "id": number,
            "data": {"text": text},
            "annotations": [{"result": [{"from_name": "label", "value": {"choices": [label]}}]}],
        }
        for number, (text, label) in enumerate(ROWS)
    ]
    (folder / "t.json").write_text(json.dumps(tasks))
    return folder / "t.json"


def class_folders(folder: Path) -> Path:
    for number, (text, label) in enumerate(ROWS):
        path = folder / "texts" / label / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "texts" / "README.md").write_text("notes")
    return folder / "texts"


@pytest.mark.parametrize("make", [csv_file, json_file, parquet_file, export, class_folders])
def test_each_form_gives_the_same_texts(tmp_path: Path, make: Callable[[Path], Path]):
    run = found(tmp_path, make(tmp_path))
    assert (run.config.task, run.config.suite, run.config.backbone.name) == ("text", "texts", "embedded_text")
    table = catalogue(run)
    assert {(read_bytes(uri).decode(), label) for uri, label in zip(table["uri"], table["label"], strict=True)} == set(
        ROWS
    )
    assert table["characters"].tolist() == [len(read_bytes(uri)) for uri in table["uri"]]
    assert "width_px" not in table


def test_a_source_of_images_stays_one(tmp_path: Path):
    folder = photos.class_folders(tmp_path / "photos", {"red": 2, "green": 2})
    (folder / "red" / "caption.txt").write_text("a red one")
    assert found(tmp_path, folder).config.task == "image"
    (tmp_path / "list.csv").write_text(f"path,label,text\n{folder}/red/0.jpg,red,a caption\n")
    assert found(tmp_path, tmp_path / "list.csv").config.task == "image"
    assert found(tmp_path, tmp_path / "nowhere").config.task == "image"  # who lists it says that it is not there


def test_rows_that_cant_be_used_are_named_by_their_line_and_the_others_are_used(tmp_path: Path):
    (tmp_path / "t.csv").write_text('text,label\nfirst one,a\n,a\nsecond one,\n"two\nlines",b\nthird one,b\n')
    run = found(tmp_path, tmp_path / "t.csv")
    listing = list_source(run)
    assert [entry.path for entry in listing.entries] == ["line 2", "line 6", "line 7"]
    assert [(item.path, item.reason) for item in listing.rejected] == [("line 3", "its text is blank")]
    assert listing.left_out == {"line 4": "it has no label"}
    table = catalogue(run)
    assert sorted(read_bytes(uri).decode() for uri in table["uri"]) == ["first one", "third one", "two lines"]


def test_rows_that_differ_in_white_space_alone_are_copies_and_two_labels_a_conflict(tmp_path: Path):
    (tmp_path / "t.csv").write_text("text,label\nis it late?,a\n is  it late? ,a\ngood,a\ngood,b\n")
    run = found(tmp_path, tmp_path / "t.csv")
    table = catalogue(run)
    assert (table["copies"].tolist(), table["label"].tolist()) == ([2], ["a"])
    assert {entry.path for entry in run_quarantine(run)} == {"line 4", "line 5"}


def test_the_columns_may_have_other_names_and_a_missing_one_is_named(tmp_path: Path):
    (tmp_path / "t.csv").write_text("question;topic\nwhere?;place\nwhen?;time\n")
    run = found(tmp_path, tmp_path / "t.csv", text_column="question", label_column="topic")
    assert sorted(catalogue(run)["label"]) == ["place", "time"]
    with pytest.raises(SourceError, match="has no column label; found question, topic"):
        list_source(found(tmp_path, tmp_path / "t.csv", text_column="question"))


def test_a_backbone_of_the_other_kind_is_refused(tmp_path: Path):
    def refused(source: Path, backbone: str, why: str) -> None:
        with pytest.raises(ConfigError, match=why):
            with_task(make_run(tmp_path / "w", source, config={"backbone": {"name": backbone}}))

    refused(csv_file(tmp_path), "vgg16", "vgg16 takes images, and the source holds texts")
    refused(csv_file(tmp_path), "a/folder", "a/folder is no backbone of texts, .* give --backbone FILE.onnx")
    folder = photos.class_folders(tmp_path / "photos", {"red": 2, "green": 2})
    refused(folder, "embedded_text", "embedded_text takes texts, and the source holds images")


def test_a_row_is_new_by_its_content_wherever_it_stands(tmp_path: Path):
    file = csv_file(tmp_path)
    before = listing_table(list_source(found(tmp_path, file)).entries, Corrections())
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "A new first row,arrival", *lines[1:]]) + "\n")
    after = listing_table(list_source(found(tmp_path, file)).entries, Corrections())
    change = arrivals(after, before)
    assert (change.total, change.new, change.removed, change.classes) == (4, 1, 0, {"arrival": 1})


def test_a_decision_about_a_text_counts_as_of_an_image(tmp_path: Path):
    run = found(tmp_path, csv_file(tmp_path))
    sha256 = catalogue(run).set_index("label").loc["charge", "sha256"]
    made = Correction(sha256=str(sha256), label="arrival", by="Kim", when="2026-01-01T00:00:00", reason="")
    assert decide(run.workspace, made, None)
    assert catalogue(run)["label"].tolist() == ["arrival"] * 3


def test_a_text_is_its_own_address():
    text = "is 50 % of 2 > 1? https://a.b/c ü"
    assert "://" not in uri_of_text(text)
    assert read_bytes(uri_of_text(text)).decode() == text


@pytest.mark.parametrize(
    ("name", "head", "texts"),
    [
        ("t.csv", b"\xef\xbb\xbfText;label\r\n", True),
        ("t.csv", "text\tlabel\n".encode("utf-16"), True),
        ("t.csv", b"path,label\n", False),
        ("t.csv", b"path,text,label\n", False),
        ("t.jsonl", b'\n{"text": "where?", "label": "place"}\n', True),
        ("t.jsonl", b'{"path": "a.jpg", "label": "place"}\n', False),
    ],
)
def test_the_kind_is_found_from_the_header_alone(tmp_path: Path, name: str, head: bytes, texts: bool):
    """What follows is no text at all, and far more than is read; whoever lists it says so."""
    (tmp_path / name).write_bytes(head + 400_000 * b"\xc3\xa9 \xff\x00")
    assert with_task(make_run(tmp_path / "w", tmp_path / name)).config.task == ("text" if texts else "image")
    with pytest.raises(SourceError):
        list_source(found(tmp_path, tmp_path / name))
