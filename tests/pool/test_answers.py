"""`headstart predict NAME FOLDER --to FILE`: what `predict` says of each image, in one table."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tasks.pool import embedding
from tests import photos
from tests.deploy.serving.models import colour_model
from tests.flows.cli.test_prediction import headstart
from tests.pool.colours import NAME, pool_of, publish_colours

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    publish_colours(tmp_path, trained=5)
    pool_of(tmp_path / "pool", count=3)
    return tmp_path


def read(file: Path) -> pd.DataFrame:
    if file.suffix == ".parquet":
        return pd.read_parquet(file)
    return pd.read_csv(file) if file.suffix == ".csv" else pd.read_json(file, lines=True)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_the_table_has_what_predict_prints(place: Path, capfd: Capture, suffix: str):
    assert headstart("predict", NAME, place / "pool", "--workspace", place / "w", "--json").exit_code == 0
    expected = json.loads(capfd.readouterr().out)["predictions"]
    file = place / f"answers{suffix}"
    assert headstart("predict", NAME, place / "pool", "--to", file, "--workspace", place / "w").exit_code == 0
    found = read(file)
    assert list(found.columns) == ["image", "label", "probability", "familiarity"]
    assert found["familiarity"].isna().all()  # the model does not say it
    assert found["image"].tolist() == [row["image"] for row in expected]
    assert found["label"].tolist() == [row["label"] for row in expected]
    assert found["probability"].tolist() == pytest.approx([row["probability"] for row in expected], abs=5e-3)
    assert not list(place.glob(".answers*"))


def test_a_second_call_embeds_nothing_and_next_shares_the_rows(place: Path, capfd: Capture):
    command = ("predict", NAME, place / "pool", "--to", place / "a.csv", "--workspace", place / "w", "--json")
    for embedded in (18, 0):
        assert headstart(*command).exit_code == 0
        assert json.loads(capfd.readouterr().out)["embedded"] == embedded
    assert headstart("next", NAME, "--pool", place / "pool", "--workspace", place / "w", "--json").exit_code == 0
    assert json.loads(capfd.readouterr().out)["pool"]["embedded"] == 0


def test_a_bad_file_is_named_and_hides_no_answer(place: Path, capfd: Capture):
    (place / "pool/broken.jpg").write_bytes(photos.truncated_jpeg())
    (place / "pool/x.heic").write_bytes(b"x")
    done = headstart("predict", NAME, place / "pool", "--to", place / "a.csv", "--workspace", place / "w", "--json")
    assert done.exit_code == 2
    answer = json.loads(capfd.readouterr().out)
    assert str(place / "pool/broken.jpg") in [fault["image"] for fault in answer["faults"]]
    assert len(list(csv.DictReader((place / "a.csv").open()))) == 18


def test_a_table_and_a_file_of_a_model_are_taken_too(place: Path):
    (place / "model.onnx").write_bytes(colour_model())
    (place / "pool.csv").write_text("path\npool/0/000.jpg\npool/1/000.jpg\npool/1/000.jpg\n")
    command = (
        "predict",
        place / "model.onnx",
        place / "pool.csv",
        "--to",
        place / "a.csv",
        "--workspace",
        place / "w3",
    )
    assert headstart(*command).exit_code == 0
    assert read(place / "a.csv")["image"].tolist() == ["pool/0/000.jpg", "pool/1/000.jpg"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["pool", "--to", "a.txt"], "ending with .parquet, .csv, .jsonl; found a.txt"),
        (["pool", "photos", "--to", "a.csv"], "takes one folder, bucket or table"),
        (["pool", "--to", "absent/a.csv"], "which can't be written"),
        (["absent", "--to", "a.csv"], "'absent' does not exist"),
    ],
)
def test_what_can_not_be_done_is_said_before_the_work(place: Path, monkeypatch, args: list[str], says: str):
    monkeypatch.chdir(place)
    done = headstart("predict", NAME, *args, "--workspace", place / "w")
    assert done.exit_code == 2
    assert says in done.stderr.replace("\n", " ")


def test_an_interrupted_pass_keeps_its_parts(place: Path, monkeypatch, capfd: Capture):
    monkeypatch.setattr(embedding, "PART_IMAGES", 5)
    read_checked, calls = embedding.read_checked, []

    def stopped_after_twelve(uri: str, sha256: str) -> bytes:
        calls.append(uri)
        if len(calls) > 12:
            raise KeyboardInterrupt
        return read_checked(uri, sha256)

    command = ("predict", NAME, place / "pool", "--to", place / "a.csv", "--workspace", place / "w", "--json")
    monkeypatch.setattr(embedding, "read_checked", stopped_after_twelve)
    assert headstart(*command).exit_code == 130
    assert not (place / "a.csv").exists()
    monkeypatch.setattr(embedding, "read_checked", read_checked)
    capfd.readouterr()
    assert headstart(*command).exit_code == 0
    assert json.loads(capfd.readouterr().out)["embedded"] == 8  # two parts of five were kept
    assert len(read(place / "a.csv")) == 18


@pytest.mark.slow
def test_a_killed_process_is_resumed(place: Path, capfd: Capture):
    pool_of(place / "pool", count=300)
    command = ("predict", NAME, str(place / "pool"), "--to", str(place / "a.csv"), "--workspace", str(place / "w"))
    process = subprocess.Popen([sys.executable, "-m", "flows.cli", *command], env=dict(os.environ))
    deadline = time.monotonic() + 100
    while not list((place / "w/features").glob("*/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert headstart(*command, "--json").exit_code == 0
    assert json.loads(capfd.readouterr().out)["embedded"] < 1800
    assert len(read(place / "a.csv")) == 1800
