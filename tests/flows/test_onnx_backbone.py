"""A retrain with an ONNX file as the backbone: it ships in model.onnx, and is refused early where it can't be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.preflight import check_run
from tasks.errors import ConfigError
from tasks.networks.classifier import Classifier
from tests import onnx_files, photos
from tests.flows.retraining import retrained
from tests.runs import make_run


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_file_is_extracted_judged_and_shipped(tmp_path: Path, precision: str):
    folder = photos.class_folders(tmp_path / "photos", {"red": 40, "green": 40})
    file = onnx_files.convolutions(tmp_path / "net.onnx")
    backbone = {"name": str(file), "precision": precision}
    summary = retrained(folder, tmp_path / "w", backbone=backbone, finetune={"heads": 2})
    assert summary["verdict"] in ("promoted", "refused")
    assert summary["lineage"]["backbone"] == "net.onnx"
    [decision] = (tmp_path / "w").glob("artifacts/evaluate/*/decision.json")
    passed = {gate["name"]: gate["passed"] for gate in json.loads(decision.read_text())["gates"]}
    assert passed["parity of labels"]
    assert passed["parity of probabilities"]
    assert Classifier(summary["model"]).labels == ["green", "red"]


def test_a_file_that_cant_be_used_is_refused_before_anything_is_read(tmp_path: Path):
    folder = photos.class_folders(tmp_path / "photos", {"red": 5, "green": 5})
    file = onnx_files.convolutions(tmp_path / "net.onnx")

    def refused(why: str, **config: object) -> None:
        with pytest.raises(ConfigError, match=why):
            check_run(make_run(tmp_path / "w", folder, config={"backbone": {"name": str(file)}, **config}))

    refused("only runs in ONNX Runtime", extract={"engine": "tensorflow"})
    file.with_suffix(".toml").unlink()
    refused("needs a description beside it")
    file.unlink()
    onnx_files.convolutions(file).write_bytes(b"no graph")
    refused("no valid ONNX graph")
