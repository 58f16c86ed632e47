"""The report's mistakes: where the evidence for the wrong class lay, and the training photographs most alike."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tasks.report.evidence import Evidence, Prediction
from tasks.report.mistakes import explained
from tasks.report.page import render_page
from tasks.storage.feature_store import append_rows
from tests import photos
from tests.deploy.serving.models import COLOURS, colour_model
from tests.report.test_page import Outline, section_of
from tests.runs import make_run


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    """A run of the model of colours with 8 training photographs and one red test photograph that is called green."""
    run = make_run(tmp_path / "w", "")
    images = {"test": photos.save(tmp_path / "test.jpg", photos.photo(9, size=(400, 300), hue=0))}
    images |= {f"{label}{n}": tmp_path / f"{label}{n}.jpg" for label in COLOURS[:2] for n in range(4)}
    for name, path in images.items():
        if name != "test":
            photos.save(path, photos.photo(len(name), hue=COLOURS.index(name[:-1])))
    sha256 = {name: hashlib.sha256(name.encode()).hexdigest() for name in images}
    rows = np.eye(9, 4, dtype=np.float16) + np.float16(0.01)
    rows[1:5, :3] = (1, 0.5, 0)  # the reds resemble the first, the test photograph, in the last layer's three columns
    append_rows(run.workspace, "k", list(sha256.values()), [0] * 9, rows)
    run.workspace.write_bytes("artifacts/export/x/model.onnx", colour_model())
    table = [
        {"sha256": sha256[name], "uri": str(path), "label": name[:-1], "split": "train", "width_px": 9, "height_px": 9}
        for name, path in images.items()
        if name != "test"
    ]
    mistake = Prediction(
        sha256=sha256["test"],
        path="red/<b>.jpg",
        uri=str(images["test"]),
        label="red",
        split="test",
        predicted="green",
        probability=0.9,
    )
    summary = {
        "artifacts": {"export": "artifacts/export/x"},
        "labels": list(COLOURS),
        "lineage": {"features": {"extractor": {"key": "k", "widths": [3, 1]}}},
    }
    return Evidence(run=run, summary=summary, snapshot=pa.Table.from_pylist(table), predictions=[mistake])


def test_a_mistake_has_its_heat_and_three_training_photographs(evidence: Evidence):
    [found] = explained(evidence, evidence.judged)
    assert found["picture"].startswith("data:image/jpeg")
    assert found["heat"].startswith("data:image/png")
    assert [near["label"] for near in found["near"]] == ["red"] * 3
    assert all(near["picture"].startswith("data:image/jpeg") for near in found["near"])


def test_the_page_shows_them_and_says_what_the_heat_is(evidence: Evidence):
    page = render_page(evidence)
    section = section_of(page, "mistakes")
    assert Outline(page).open == []
    assert section.count('class="heat"') == 1
    assert section.count('alt="labelled red"') == 3
    assert "would be less sure of what it said" in section
    assert "&lt;b&gt;" in section


def test_what_is_gone_is_left_out(evidence: Evidence):
    [mistake] = evidence.judged
    workspace = evidence.run.workspace
    [found] = explained(replace(evidence, summary={}), [mistake])
    assert (found["heat"], found["near"]) == (None, [])
    Path(mistake.uri).unlink()
    [found] = explained(evidence, [mistake])
    assert "picture" not in found
    assert found["heat"] is None
    workspace.remove("features/k")
    assert explained(evidence, [mistake])[0]["near"] == []
    assert explained(evidence, []) == []


def test_the_heat_is_drawn_over_the_whole_photograph(evidence: Evidence):
    [found] = explained(evidence, evidence.judged)
    sides = [Image.open(io.BytesIO(base64.b64decode(found[key].split(",")[1]))).size for key in ("picture", "heat")]
    assert [round(width / height, 2) for width, height in sides] == [1.33, 1.33]
