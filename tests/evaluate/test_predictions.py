"""What the champion said once is not asked again, unless something else would answer."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from importlib.metadata import version

import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from tasks.evaluate import predictions
from tasks.evaluate.predictions import champion_predictions
from tasks.records import Run
from tasks.storage.artifacts import Artifact
from tasks.storage.tables import write_table
from tests.deploy.serving.models import COLOURS, colour_model, publish
from tests.photos import save
from tests.runs import make_run

JUDGED = "artifacts/evaluate/key"
ROWS = pa.schema([(name, pa.string()) for name in ("sha256", "split", "predicted")])


@pytest.fixture
def test_images(tmp_path) -> pd.DataFrame:
    rows = []
    for label in COLOURS:
        for number in range(4):
            path = save(tmp_path / "photos" / label / f"{number}.png", Image.new("RGB", (8 + number, 8), label))
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            rows.append({"sha256": digest, "label": label, "split": "test", "uri": str(path)})
    return pd.DataFrame(rows)


@pytest.fixture
def run(tmp_path) -> Run:
    """Of a model whose version 1 an evaluation judged."""
    libraries = {library: version(library) for library in predictions.PREDICTING_WITH}
    publish(tmp_path, 1, lineage={"libraries": libraries, "artifacts": {"evaluate": JUDGED}})
    return replace(make_run(tmp_path, "s"), name="colours")


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The images that are answered anew."""
    digests: list[str] = []

    def score(run, classifier, rows, *more):
        digests.extend(rows["sha256"])
        return answer(run, classifier, rows, *more)

    answer = predictions.score
    monkeypatch.setattr(predictions, "score", score)
    return digests


def record(run: Run, images: pd.DataFrame, predicted: str, content: bytes = colour_model()) -> None:
    judged = {"candidate": {"sha256": hashlib.sha256(content).hexdigest()}}
    run.workspace.write_json(f"{JUDGED}/decision.json", judged)
    write_table(run.workspace, f"{JUDGED}/predictions.parquet", images.assign(predicted=predicted), ROWS)
    Artifact(run.workspace, "evaluate", "key").finish({})


def test_only_images_that_came_since_are_answered(run, test_images, asked):
    record(run, test_images[2:], "what was recorded")
    standing = champion_predictions(run, test_images, COLOURS, below=2)
    assert standing
    assert standing.predicted is not None
    assert asked == test_images["sha256"][:2].tolist()
    assert standing.predicted.tolist() == ["red", "red", *["what was recorded"] * 10]


def test_recorded_names_are_told_in_those_of_today(run, test_images, asked):
    renamed = replace(run, config=run.config.with_keys({"validate.rename": {"red": "scarlet"}}))
    record(run, test_images[:4], "red")
    today = test_images.replace({"label": {"red": "scarlet"}})
    standing = champion_predictions(renamed, today, ("blue", "green", "scarlet"), below=2)
    assert standing
    assert standing.predicted is not None
    assert standing.predicted.tolist() == today["label"].tolist()
    assert len(asked) == 8


@pytest.mark.parametrize("what", ["no run", "another file", "validation", "other libraries", "damaged"])
def test_all_are_where_the_record_is_of_something_else(run, test_images, asked, what, monkeypatch):
    content = b"another file" if what == "another file" else colour_model()
    images = test_images.assign(split="validation") if what == "validation" else test_images
    if what != "no run":
        record(run, images, "what was recorded", content)
    if what == "other libraries":
        monkeypatch.setattr(predictions, "version_of", lambda library: "0.0")
    if what == "damaged":
        run.workspace.write_bytes(f"{JUDGED}/predictions.parquet", b"no Parquet")
    standing = champion_predictions(run, test_images, COLOURS, below=2)
    assert standing
    assert standing.predicted is not None
    assert standing.predicted.tolist() == test_images["label"].tolist()
    assert len(asked) == len(test_images)
