"""The whole flow with an 8-bit feature extractor and with unfrozen layers, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import photos

TINY = ["--backbone", "embedded", "--set", "backbone.image_size_px=64", "--set", "split.test_share=0.25", "--json"]


def headstart(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, check=False)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos.class_folders(tmp_path_factory.mktemp("flow") / "photos", {"red": 40, "green": 40, "blue": 40})


def retrained(folder: Path, workspace: Path, *args: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The summary of a run that came to a decision, and that decision's gates by name."""
    done = headstart("retrain", folder, "--workspace", workspace, "--name", "tints", *TINY, *args)
    assert done.returncode in (0, 3), done.stderr
    summary = json.loads(done.stdout)
    assert summary["verdict"] == {0: "promoted", 3: "refused"}[done.returncode]
    decision = json.loads((workspace / "runs" / summary["run_id"] / "decision.json").read_text())
    return summary, {gate["name"]: gate for gate in decision["gates"]}


@pytest.mark.parametrize(
    "args", [["--precision", "int8"], ["--set", "backbone.boundary=block_12_add"]], ids=["int8", "block_12_add"]
)
def test_it_ends_in_a_decision_with_full_parity_and_predicts(folder: Path, tmp_path: Path, args: list[str]):
    summary, gates = retrained(folder, tmp_path, *args)
    assert gates["parity of labels"]["value"] == 1.0
    assert gates["parity of probabilities"]["passed"], gates["parity of probabilities"]
    assert summary["images"]["embedded"] == 120

    done = headstart("predict", summary["model"], folder / "red/00000.jpg", folder / "blue/00001.jpg", "--json")
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)["predictions"]
    assert len(answers) == 2
    assert all(answer["label"] in ("red", "green", "blue") and 0 < answer["probability"] <= 1 for answer in answers)

    history = json.loads((tmp_path / summary["artifacts"]["finetune"] / "history.json").read_text())
    trained = {"classifier", "unfrozen"} if "--set" in args else {"classifier"}
    assert {epoch["trained"] for epoch in history["epochs"]} == trained


def test_a_wrong_boundary_exits_2_and_names_good_ones(folder: Path, tmp_path: Path):
    args = ["--set", "backbone.boundary=block_12_ad"]
    done = headstart("retrain", folder, "--workspace", tmp_path, "--name", "tints", *TINY, *args)
    assert done.returncode == 2
    assert "has no layer 'block_12_ad'" in done.stderr
    assert "block_12_add" in done.stderr
    assert done.stdout == ""


def test_an_int8_extractor_on_tensorflow_exits_2(folder: Path, tmp_path: Path):
    args = ["--precision", "int8", "--engine", "tensorflow"]
    done = headstart("retrain", folder, "--workspace", tmp_path, "--name", "tints", *TINY, *args)
    assert done.returncode == 2
    assert "an int8 feature extractor only runs in ONNX Runtime" in done.stderr
