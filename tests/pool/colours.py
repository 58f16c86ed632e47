"""A published model that names an image after its strongest channel, the images it was trained on, and a pool."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from tasks.records import Run
from tests import photos
from tests.deploy.serving.models import COLOURS, publish
from tests.runs import keep_snapshot, make_run

NAME = "colours"
TRAINED = 10  # photographs of each colour


def publish_colours(folder: Path, trained: int = TRAINED) -> Run:
    """Publishes `colours` in folder/w, trained on folder/photos; the run is of that model."""
    source = photos.class_folders(folder / "photos", dict.fromkeys(("0red", "1green", "2blue"), trained))
    run = make_run(folder / "w", source)
    rows = []
    for path in sorted(source.rglob("*.jpg")):
        label = path.parent.name[1:]
        split = "test" if path.stem.endswith("3") else "train"
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.append({"sha256": sha256, "label": label, "split": split, "path": path.name, "uri": str(path)})
    snapshot = keep_snapshot(run, pd.DataFrame(rows))
    publish(folder / "w", 1, lineage={"snapshot": snapshot.id, "recipe": "r"})
    assert set(snapshot.labels) == set(COLOURS)
    return run


def pool_of(folder: Path, count: int = 8, start: int = 500) -> Path:
    """Unlabelled photographs: `count` of each of six tints."""
    for hue in range(6):
        for number in range(count):
            photos.save(folder / f"{hue}/{number:03d}.jpg", photos.photo(start + 1000 * hue + number, hue=hue))
    return folder
