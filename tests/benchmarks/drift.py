"""How often the drift metrics warn: by chance, for deliveries of another label mix, and for images that were altered.

    uv run python -m tests.benchmarks.drift WORKSPACE NAME [--draws 300]

WORKSPACE has a champion NAME and the features of its images, which lie where they were when it was trained. A delivery
is drawn from them and compared with the images that are left:

    random       40, 100 or 300 images
    one class    at most 100 of one class, half of its images at most
    skewed       100 images of a label mix drawn anew (Dirichlet, concentration 0.3)
    chosen       of 1,000 random images the 100 that a cross-fitted classifier is least sure about
    altered      40 or 100 of 400 random images: blurred, darkened, made smaller, recompressed or cropped

Prints JSON: for each kind the share of deliveries that had enough images to be compared, the share that each
expectation of the suite warns about, the median and the 99th percentile of the label mix's distance, and the seconds
that the metrics took.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageFilter

from tasks.extract.engine import OnnxRuntimeEngine, Task
from tasks.modality.images.content import decode
from tasks.modality.images.inspection import inspect
from tasks.modality.kinds import KINDS
from tasks.storage.feature_store import load_features
from tasks.storage.repository import champion, read_manifest
from tasks.storage.snapshots import read_snapshot
from tasks.validate.changes import describe_changes
from tasks.validate.drift import draw_sample, embedding_p_value
from tasks.validate.label_issues import FOLDS, out_of_fold_logits
from tasks.validate.suite import load_suite
from tasks.workspace import Workspace

MAX_PIXELS = 10**8
ALTERED_IMAGES = 400
CONCENTRATION = 0.3


def _recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=20)
    return Image.open(buffer).convert("RGB")


def _cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 10, height // 10, width - width // 10, height - height // 10))


ALTERATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blurred by 0.5 % of the shorter side": lambda image: image.filter(
        ImageFilter.GaussianBlur(0.005 * min(image.size))
    ),
    "20 % darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "30 % darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "JPEG of quality 20": _recompressed,
    "cropped to 80 % of each side": _cropped,
}


@dataclass(frozen=True)
class Images:
    """Some images: their rows of a snapshot, and their features, [N, D]."""

    table: pd.DataFrame
    features: np.ndarray

    def at(self, rows: np.ndarray) -> Images:
        return Images(self.table.iloc[rows].reset_index(drop=True), self.features[rows])


# A kind, the rows of the images that the champion keeps, and the new images.
Delivery = tuple[str, np.ndarray, Images]


def read_images(workspace: Workspace, name: str) -> tuple[Images, dict[str, Any]]:
    """The champion's images with the last layer's features, as the review reads them; and its feature extractor."""
    lineage = read_manifest(workspace, name, champion(workspace, name) or 1)["lineage"]
    extractor = lineage["features"]["extractor"]
    table = read_snapshot(workspace, lineage["snapshot"])
    features = load_features(workspace, extractor["key"], table["sha256"].tolist(), 0)
    return Images(table, features[:, : next(iter(extractor["widths"] or []), None)]), extractor


def alter(
    images: Images, change: Callable[[Image.Image], Image.Image], workspace: Workspace, extractor: dict[str, Any]
) -> Images:
    """The images after a change, under names of their own: what inspection and the feature extractor see."""

    def views(task: Task) -> list[np.ndarray]:
        return [np.asarray(change(Image.fromarray(decode(Path(task.uri).read_bytes(), MAX_PIXELS))))]

    tasks = [Task(sha256, uri, (0,)) for sha256, uri in images.table[["sha256", "uri"]].to_numpy()]
    engine = OnnxRuntimeEngine(workspace.local_file(extractor["onnx_path"]))
    rows = [outputs["features"][0] for _, outputs in engine.embed(tasks, views, workers=2)]
    found = []
    for task in tasks:
        buffer = io.BytesIO()
        Image.fromarray(views(task)[0]).save(buffer, "JPEG", quality=95)
        found.append(inspect(buffer.getvalue(), MAX_PIXELS))
    columns = ("brightness", "contrast", "sharpness", "width_px", "height_px")
    changed = {column: [getattr(each, column) for each in found] for column in columns}
    table = images.table.assign(**changed, sha256="altered " + images.table["sha256"])
    return Images(table, np.stack(rows)[:, : images.features.shape[1]])


def unsure(images: Images) -> np.ndarray:
    """How unsure a classifier is that was trained without the image, [N]: minus the margin between two classes."""
    targets, labels = pd.factorize(images.table["label"], sort=True)
    groups = pd.factorize(images.table["group"])[0]
    [logits] = out_of_fold_logits(images.features, targets, groups, len(labels), [FOLDS - 1])
    best = np.sort(logits, axis=1)
    return best[:, -2] - best[:, -1]


def measure(old: Images, new: Images) -> dict[str, Any]:
    """The metrics of a delivery, and the seconds that they took."""
    started = time.perf_counter()
    metrics = describe_changes(old.table, pd.concat([old.table, new.table], ignore_index=True), KINDS["image"])
    changes_s = time.perf_counter() - started
    if sample := draw_sample(old.table["label"], new.table["label"]):
        drawn = np.concatenate([old.features[sample.old], new.features[sample.new]])
        metrics["embedding_p_value"] = embedding_p_value(drawn, sample)
    return {**metrics, "changes_s": changes_s, "embedding_s": time.perf_counter() - started - changes_s}


def summary(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The share of deliveries that each drift expectation of the suite warns about, and further figures."""
    table = pd.DataFrame(measured)
    warned = {}
    for rule in load_suite("changes")["expectations"]:
        kwargs, name = rule["kwargs"], rule["meta"]["name"]
        if name.endswith("-drift"):
            values = table[kwargs["column"]].astype(float)
            outside = (values > kwargs.get("max_value", np.inf)) | (values < kwargs.get("min_value", -np.inf))
            warned[name] = round(float(outside.mean()), 4)
    mix = table["label_mix_distance"].astype(float)
    return {
        "deliveries": len(table),
        "compared": round(float(table["brightness_drift"].notna().mean()), 4),
        "warned": warned,
        "label_mix_distance": [round(float(mix.quantile(share)), 3) for share in (0.5, 0.99)],
        "median_s": {key: round(float(table[key].median()), 3) for key in ("changes_s", "embedding_s")},
    }


def unaltered(images: Images, draws: int, rng: np.random.Generator) -> Iterator[Delivery]:
    """Deliveries of each kind whose images are as they were; those chosen for doubt alone may differ within classes."""
    everything, doubts = np.arange(len(images.table)), unsure(images)
    for _ in range(draws):
        for kind, rows in _drawn(images.table["label"].to_numpy(), rng):
            yield kind, np.setdiff1d(everything, rows), images.at(rows)
        pool = rng.permutation(everything)[:1000]
        chosen = pool[np.argsort(-doubts[pool])[:100]]
        yield "chosen, 100", np.setdiff1d(everything, pool), images.at(chosen)


def _drawn(labels: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """(kind, rows) of a delivery of each kind that needs the labels alone, [N]."""
    order = rng.permutation(len(labels))
    for size in (40, 100, 300):
        yield f"random, {size}", order[:size]
    members = order[labels[order] == rng.choice(np.unique(labels))]
    yield "one class", members[: min(100, len(members) // 2)]
    shares = dict(zip(np.unique(labels), rng.dirichlet(np.full(len(set(labels)), CONCENTRATION)), strict=True))
    weights = np.array([shares[label] for label in labels]) + 1e-9
    yield "skewed, 100", rng.choice(len(labels), 100, replace=False, p=weights / weights.sum())


def altered(
    images: Images, draws: int, rng: np.random.Generator, workspace: Workspace, extractor: dict[str, Any]
) -> Iterator[Delivery]:
    """Deliveries of altered images, of each alteration and size."""
    apart = rng.permutation(len(images.table))[:ALTERED_IMAGES]
    left = np.setdiff1d(np.arange(len(images.table)), apart)
    for name, change in ALTERATIONS.items():
        changed = alter(images.at(apart), change, workspace, extractor)
        for size in (40, 100):
            for _ in range(draws):
                yield f"{name}, {size}", left, changed.at(rng.permutation(len(apart))[:size])


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Workspace)
    parser.add_argument("name", help="of the model")
    parser.add_argument("--draws", type=int, default=300, help="deliveries of each kind; a third as many altered ones")
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args(arguments)
    rng = np.random.default_rng(given.seed)
    images, extractor = read_images(given.workspace, given.name)
    deliveries = (
        unaltered(images, given.draws, rng),
        altered(images, given.draws // 3, rng, given.workspace, extractor),
    )
    measured: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for kind, left, new in itertools.chain(*deliveries):
        measured[kind].append(measure(images.at(left), new))
    print(json.dumps({kind: summary(each) for kind, each in measured.items()}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
