"""The whole flow with an 8-bit feature extractor and with unfrozen layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.cli.prediction import load_model, predict_images
from flows.preflight import check_run, check_setup
from tasks.errors import ConfigError
from tasks.networks.occlusion import Occlusion
from tasks.pool.batches import read_batch
from tasks.pool.stage import choose_batch, see
from tasks.runs import new_run
from tasks.workspace import Workspace
from tests import photos
from tests.flows.retraining import NAME, retrained, tiny
from tests.runs import make_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos.class_folders(tmp_path_factory.mktemp("flow") / "photos", {"red": 40, "green": 40, "blue": 40})


@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize(
    ("backbone", "trained"),
    [({"precision": "int8"}, {"classifier"}), ({"boundary": "block_12_add"}, {"classifier", "unfrozen"})],
    ids=["int8", "block_12_add"],
)
def test_it_is_promoted_with_full_parity_predicts_and_chooses_what_to_label(
    folder: Path, tmp_path: Path, backbone: dict[str, Any], trained: set[str]
):
    summary = retrained(folder, tmp_path / "w", backbone=backbone, finetune={"unfrozen_epochs": 1})
    assert summary["verdict"] == "promoted"
    run = tmp_path / "w/runs" / summary["run_id"]
    gates = {gate["name"]: gate for gate in json.loads((run / "decision.json").read_text())["gates"]}
    assert gates["parity of labels"]["value"] == 1.0
    assert gates["parity of probabilities"]["passed"], gates["parity of probabilities"]
    assert summary["images"]["embedded"] == 120

    model = load_model(Workspace(str(tmp_path / "w")), summary["model"])
    answers, _ = predict_images(model, [folder / "red/00000.jpg", folder / "blue/00001.jpg"])
    assert len(answers) == 2
    assert all(answer["label"] in ("red", "green", "blue") and 0 < answer["probability"] <= 1 for answer in answers)

    occlusion = Occlusion(Path(summary["model"]).read_bytes())
    look = occlusion.look(np.asarray(photos.photo(3)))
    assert occlusion.heat(look, 0, occlusion.typical([look])).shape == (7, 7)

    pool = photos.class_folders(tmp_path / "pool", {"unlabelled": 6}, start=500)
    choosing = new_run(str(pool), NAME, str(tmp_path / "w"), tiny())
    batch = choose_batch(choosing, see(choosing), count=3)
    rows = read_batch(choosing.workspace, batch.folder)
    answers, _ = predict_images(model, [Path(uri) for uri in rows["uri"]])
    assert batch.images == len(answers) == 3
    assert rows["label"].tolist() == [answer["label"] for answer in answers]
    assert rows["probability"].tolist() == pytest.approx([answer["probability"] for answer in answers], abs=1e-3)

    [history] = (tmp_path / "w/artifacts/finetune").glob("*/history.json")
    assert {epoch["trained"] for epoch in json.loads(history.read_text())["epochs"]} == trained


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"backbone": {"boundary": "block_12_ad"}}, "can't be cut at 'block_12_ad'.*block_12_add"),
        (
            {"backbone": {"precision": "int8"}, "extract": {"engine": "tensorflow"}},
            "an int8 feature extractor only runs in ONNX Runtime",
        ),
    ],
)
def test_a_mistake_is_found_before_anything_is_read(
    folder: Path, tmp_path: Path, sections: dict[str, dict[str, Any]], says: str
):
    backbone = {"name": "embedded", "image_size_px": 32}
    config = {**sections, "backbone": {**backbone, **sections.get("backbone", {})}}
    run = make_run(tmp_path / "w", folder, config=config)
    for check in (check_run, check_setup):  # the command's, and the flow's own
        with pytest.raises(ConfigError, match=says) as mistake:
            check(run)
        assert mistake.value.exit_status == 2
    assert not (tmp_path / "w" / "artifacts").exists()
