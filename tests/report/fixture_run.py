"""A realistic run to report on: real JPEGs, a snapshot, predictions with a champion's, gates, history."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from tasks.config import parse_config
from tasks.records import Run
from tasks.storage.quarantine import quarantine
from tasks.workspace import Workspace
from tests.report.fixture_files import (
    SNAPSHOT,
    decision,
    expectations,
    history,
    learning_curve,
    left_out,
    summary,
    suspects,
)

LABELS = ("dress", "hat", "longsleeve", "outwear", "pants", "shirt", "shoes", "shorts", "skirt", "t-shirt")


def make_run(
    folder: Path,
    *,
    labels: Sequence[str] = LABELS,
    test_images: int = 80,
    accuracy: float = 0.9,
    verdict: str = "promoted",
    champion_accuracy: float | None = None,
    photographs: dict[str, list[Path]] | None = None,
    seed: int = 7,
) -> Run:
    """Lays a finished run's files into `folder` / workspace and returns the run.

    Args:
        photographs: files to show for each label; drawn shapes by default.
        champion_accuracy: None for a first model, with nothing to compare.
    """
    rng = random.Random(seed)
    run = Run(
        run_id="20261121T093000-clothing-1a2b3c",
        name="clothing",
        source=str(folder / "photos"),
        workspace=Workspace(str(folder / "workspace")),
        config=parse_config({"finetune": {"learning_rate": 0.01}}),
        started_at="2026-11-21T09:30:00+00:00",
    )
    images = _Images(folder / "photos", photographs)
    rows = [_prediction(rng, labels, index, "test", accuracy, champion_accuracy) for index in range(test_images)]
    rows += [_prediction(rng, labels, i, "validation", accuracy, champion_accuracy) for i in range(test_images // 2)]
    for row in rows:
        images.place(row)
    _write_table(run, run.path("predictions.parquet"), rows)
    _write_table(run, f"snapshots/{SNAPSHOT}.parquet", _snapshot_rows(rng, labels))
    run.workspace.write_json(run.path("summary.json"), summary(run, labels, rows, verdict))
    run.workspace.write_json(run.path("decision.json"), decision(labels, rows, verdict, champion_accuracy))
    run.workspace.write_json(run.path("history.json"), history())
    run.workspace.write_json(run.path("learning_curve.json"), learning_curve(labels))
    if champion_accuracy is not None:
        _publish_champion(run, labels)
    run.workspace.write_json(run.path("validation.json"), expectations())
    run.workspace.write_json(run.path("suspects.json"), suspects(labels, rows))
    quarantine(run, left_out(rows))
    return run


class _Images:
    """Gives each prediction a file of its label."""

    def __init__(self, folder: Path, photographs: dict[str, list[Path]] | None) -> None:
        self.folder = folder
        self.photographs = photographs
        self.placed = 0

    def place(self, row: dict[str, Any]) -> None:
        label = row["label"]
        if self.photographs:
            files = self.photographs[label]
            file = files[self.placed % len(files)]
        else:
            file = self.folder / "drawn" / f"{self.placed}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(drawn_jpeg(label, self.placed))
        self.placed += 1
        row["path"] = f"{label}/{file.name}"
        row["uri"] = str(file)
        row["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()


def drawn_jpeg(label: str, seed: int, size_px: tuple[int, int] = (320, 240)) -> bytes:
    """A noisy coloured shape, the colour a function of the label."""
    hue = int(hashlib.sha256(label.encode()).hexdigest()[:2], 16)
    image = _noise(size_px).copy()
    colour = Image.new("HSV", (1, 1), (hue, 160, 190)).convert("RGB").getpixel((0, 0))
    x, y = 20 + seed * 7 % 70, 20 + seed * 13 % 70
    ImageDraw.Draw(image).ellipse((x, y, x + 150, y + 110), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


@cache
def _noise(size_px: tuple[int, int]) -> Image.Image:
    width, height = size_px
    return Image.fromarray(np.random.default_rng(1).integers(200, 240, (height, width, 3), dtype=np.uint8))


def _prediction(
    rng: random.Random, labels: Sequence[str], index: int, split: str, accuracy: float, champion: float | None
) -> dict[str, Any]:
    label = labels[index % len(labels)]
    predicted = label if rng.random() < accuracy else _neighbour(rng, labels, label)
    probability = min(
        0.999, max(1 / len(labels), rng.betavariate(6, 1.2) if predicted == label else rng.betavariate(3, 2))
    )
    champion_predicted = None
    if champion is not None:
        champion_predicted = label if rng.random() < champion else _neighbour(rng, labels, label)
    rest = (1 - probability) / max(1, len(labels) - 1)
    return {
        "label": label,
        "split": split,
        "predicted": predicted,
        "probability": probability,
        "probabilities": [probability if name == predicted else rest for name in labels],
        "champion_predicted": champion_predicted,
    }


def _neighbour(rng: random.Random, labels: Sequence[str], label: str) -> str:
    """A wrong label; half the time the one beside it, so that some pairs stand out."""
    others = [name for name in labels if name != label]
    return labels[(labels.index(label) + 1) % len(labels)] if rng.random() < 0.5 else rng.choice(others)


def _write_table(run: Run, path: str, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows)
    if "champion_predicted" in table.column_names:
        champion = pa.array([row["champion_predicted"] for row in rows], pa.string())
        table = table.set_column(table.column_names.index("champion_predicted"), "champion_predicted", champion)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    run.workspace.write_bytes(path, buffer.getvalue())


def _snapshot_rows(rng: random.Random, labels: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for place, label in enumerate(labels):
        for index in range(max(8, 120 - 12 * place)):
            split = "train" if index % 10 < 7 else ("validation" if index % 10 < 8 else "test")
            width, height = rng.choice([(400, 533), (533, 400), (400, 400), (1200, 900)])
            rows.append(
                {
                    "sha256": hashlib.sha256(f"{label}{index}".encode()).hexdigest(),
                    "label": label,
                    "split": split,
                    "path": f"{label}/{index}.jpg",
                    "uri": "",
                    "width_px": width,
                    "height_px": height,
                }
            )
    return rows


def _publish_champion(run: Run, labels: Sequence[str]) -> None:
    """Version 2, made of another snapshot: the same images but ten of the first class, and one of another label."""
    before = _snapshot_rows(random.Random(1), labels)
    before[10]["label"], before[-1]["sha256"] = labels[-1], "gone"
    _write_table(run, "snapshots/before.parquet", before[10:])
    run.workspace.write_json(f"models/{run.name}/2/manifest.json", {"lineage": {"snapshot": "before"}})
