"""`headstart next`: a batch worth a person's time, of files that can be labelled, and nothing twice."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tasks.ingest.sources import list_source
from tasks.pool.batches import batch_folders, handed_out, read_batch
from tasks.pool.selection import RANDOM, REASONS
from tasks.storage.digests import uniform
from tasks.storage.feature_store import feature_store
from tests import photos
from tests.flows.cli.test_prediction import headstart
from tests.pool.colours import NAME, pool_of, publish_colours
from tests.runs import make_run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the workspace w, the labelled photos, and the pool, of which some files are odd."""
    publish_colours(tmp_path)
    pool = pool_of(tmp_path / "pool")
    shutil.copy(pool / "0/001.jpg", pool / "0/a copy.jpg")
    shutil.copy(tmp_path / "photos/0red/00001.jpg", pool / "labelled already.jpg")
    with Image.open(pool / "2/002.jpg") as image:
        image.save(pool / "2/recompressed.jpg", quality=60)
    with Image.open(tmp_path / "photos/1green/00002.jpg") as image:
        image.save(pool / "labelled, recompressed.jpg", quality=60)
    (pool / "broken.jpg").write_bytes(photos.truncated_jpeg())
    (pool / "notes.txt").write_text("no image")
    return tmp_path


def chosen(capfd: Capture, place: Path, *args: object) -> dict[str, Any]:
    capfd.readouterr()
    done = headstart("next", NAME, "--workspace", place / "w", "--json", *args)
    assert done.exit_code == 0, done.stderr
    return json.loads(capfd.readouterr().out)


def test_a_batch_has_each_image_once_no_copies_and_a_reason(place: Path, capfd: Capture):
    answer = chosen(capfd, place, "--pool", place / "pool", "--count", 500)
    paths = [Path(row["path"]).relative_to(place / "pool").as_posix() for row in answer["batch"]]
    assert len(paths) == len(set(paths)) == answer["images"] == sum(answer["chosen"].values())
    assert {"labelled already.jpg", "labelled, recompressed.jpg", "broken.jpg"}.isdisjoint(paths)
    assert len({"0/001.jpg", "0/a copy.jpg"} & set(paths)) == 1
    assert len({"2/002.jpg", "2/recompressed.jpg"} & set(paths)) == 1
    assert len(paths) == 48  # all that is left
    assert [row["reason"] for row in answer["batch"]] == sorted(
        (row["reason"] for row in answer["batch"]), key=REASONS.index
    )
    [fault] = answer["faults"]
    assert (fault["path"], answer["pool"]["faults"]) == ("broken.jpg", 1)


def test_what_was_handed_out_is_not_handed_out_again_unless_asked_for(place: Path, capfd: Capture):
    args = ("--pool", place / "pool", "--count", 20)
    first, second = (chosen(capfd, place, *args) for _ in range(2))
    paths = [{row["path"] for row in answer["batch"]} for answer in (first, second)]
    assert [len(each) for each in paths] == [20, 20]
    assert paths[0].isdisjoint(paths[1])
    assert (first["pool"]["embedded"], second["pool"]["embedded"]) == (first["pool"]["images"], 0)
    again = chosen(capfd, place, *args, "--again")
    assert {row["path"] for row in again["batch"]} == paths[0]
    last = chosen(capfd, place, "--to", place / "again.csv")  # without a pool: the batch that was chosen last
    assert last["batch"] == again["batch"]
    assert (place / "again.csv").read_bytes() == Path(again["files"]["csv"]).read_bytes()


def test_a_batch_that_was_not_finished_is_not_handed_out(place: Path, capfd: Capture):
    args = ("--pool", place / "pool", "--count", 20)
    first = chosen(capfd, place, *args)
    run = make_run(place / "w", place / "pool")
    [folder] = batch_folders(run.workspace, NAME)
    run.workspace.remove(f"{folder}/batch.parquet")
    assert handed_out(run.workspace, NAME).empty
    assert chosen(capfd, place, *args)["batch"] == first["batch"]


def test_what_is_drawn_at_random_depends_on_content_and_seed_alone(place: Path, capfd: Capture):
    args = ("--pool", place / "pool", "--count", 24, "--set", "label.random_share=0.5")
    first = chosen(capfd, place, *args)
    other = chosen(capfd, place, *args, "--again", "--set", "label.seed=18")
    drawn = [{row["path"] for row in answer["batch"] if row["reason"] == RANDOM} for answer in (first, other)]
    assert [len(each) for each in drawn] == [12, 12]
    assert drawn[0] != drawn[1]
    # Of the 48 that are no copies, those of the smallest numbers, which come of their content and the seed alone.
    sha256s = {
        path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in map(str, (place / "pool").rglob("*.jpg"))
    }
    numbers = dict(zip(sha256s, uniform(pd.Series(list(sha256s.values()), dtype=object), 18), strict=True))
    assert max(numbers[path] for path in drawn[1]) <= sorted(numbers.values())[16]


def test_the_table_begins_with_the_columns_that_were_promised(place: Path, capfd: Capture):
    chosen(capfd, place, "--pool", place / "pool", "--count", 10, "--to", place / "next.csv")
    rows = list(csv.DictReader((place / "next.csv").open()))
    assert list(rows[0])[:4] == ["path", "reason", "label", "probability"]
    assert len(rows) == 10
    assert all(Path(row["path"]).is_file() and 0 < float(row["probability"]) <= 1 for row in rows)
    # With the labels that a person wrote it is a source.
    assert len(list_source(make_run(place / "w2", place / "next.csv")).entries) == 10


def test_label_studio_is_given_predictions_and_its_export_is_a_source(place: Path, capfd: Capture):
    answer = chosen(capfd, place, "--pool", place / "pool", "--count", 10, "--to", place / "next.json")
    tasks = json.loads((place / "next.json").read_text())
    interface = ElementTree.parse(answer["files"]["interface"]).getroot()
    [image], [choices] = interface.findall("Image"), interface.findall("Choices")
    known = {choice.get("value") for choice in choices}
    for task, row in zip(tasks, answer["batch"], strict=True):
        [prediction] = task["predictions"]
        [result] = prediction["result"]
        assert (result["from_name"], result["to_name"]) == (choices.get("name"), image.get("name"))
        assert result["value"]["choices"] == [row["label"]]
        assert row["label"] in known
        assert prediction["score"] == pytest.approx(row["probability"], abs=1e-4)
    # What comes back once people have confirmed every prediction.
    export = [
        {**task, "id": number, "annotations": [{"id": number, "result": task["predictions"][0]["result"]}]}
        for number, task in enumerate(tasks)
    ]
    (place / "export.json").write_text(json.dumps(export))
    for root in ("", str(place / "pool")):
        run = make_run(place / "w2", place / "export.json", config={"ingest": {"images_root": root}})
        found = list_source(run)
        assert sorted(entry.uri for entry in found.entries) == sorted(row["path"] for row in answer["batch"])
        assert not found.rejected


def test_the_nearest_labelled_images_are_of_the_same_tint(place: Path, capfd: Capture):
    chosen(capfd, place, "--pool", place / "pool", "--count", 500)
    workspace = make_run(place / "w", "").workspace
    batch = read_batch(workspace, batch_folders(workspace, NAME)[-1])
    pure = batch[batch["path"].str.match("[012]/")]
    hits = [
        labels[0] == ("red", "green", "blue")[int(path[0])]
        for path, labels in zip(pure["path"], pure["near_labels"], strict=True)
    ]
    assert np.mean(hits) > 0.9
    assert all(
        len(uris) == len(labels) == 3 for uris, labels in zip(batch["near_uris"], batch["near_labels"], strict=True)
    )


def test_rows_survive_a_kill_and_a_damaged_part_is_made_again(place: Path, capfd: Capture):
    chosen(capfd, place, "--pool", place / "pool", "--count", 5)
    workspace = make_run(place / "w", "").workspace
    [folder] = [f"features/{key}" for key in workspace.names("features")]
    parts = feature_store(workspace, folder.removeprefix("features/")).parts()
    Path(workspace.path(parts[0])).write_bytes(b"damaged")
    answer = chosen(capfd, place, "--pool", place / "pool", "--count", 5)
    assert answer["images"] == 5


def test_cleaning_keeps_the_rows_of_the_last_pool(place: Path, capfd: Capture):
    args = ("--pool", place / "pool", "--count", 5)
    chosen(capfd, place, *args)
    assert headstart("clean", "--workspace", place / "w").exit_code == 0
    assert chosen(capfd, place, *args)["pool"]["embedded"] == 0


def test_a_pool_of_which_nothing_is_left_gives_an_empty_batch(tmp_path: Path, capfd: Capture):
    publish_colours(tmp_path)
    answer = chosen(capfd, tmp_path, "--pool", tmp_path / "photos", "--to", tmp_path / "next.json")
    assert (answer["images"], answer["batch"]) == (0, [])
    assert json.loads((tmp_path / "next.json").read_text()) == []
    assert "Nothing is left" in Path(answer["files"]["html"]).read_text()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["absent", "--pool", "photos"], "no model 'absent' has been published"),
        ([NAME], "nothing was chosen for 'colours' yet: give --pool"),
        ([NAME, "--pool", "absent"], "the pool 'absent' does not exist"),
        ([NAME, "--pool", "photos", "--to", "x.txt"], "ending with .json or .csv; found x.txt"),
    ],
)
def test_what_can_not_be_chosen_from_is_a_plain_error(tmp_path: Path, monkeypatch, args: list[str], says: str):
    publish_colours(tmp_path, trained=5)
    monkeypatch.chdir(tmp_path)
    done = headstart("next", *args, "--workspace", tmp_path / "w")
    assert done.exit_code == 2
    assert says in done.stderr.replace("\n", " ")
