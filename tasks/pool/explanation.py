"""Why a published model answers as it does: where in a photograph the evidence lies, and the training photographs that
resemble it most."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tasks.display import Progress
from tasks.errors import HeadstartError
from tasks.modality.images.content import decode
from tasks.modality.items import read_bytes
from tasks.networks.onnx_session import available_cores
from tasks.networks.outputs import THRESHOLD
from tasks.pool.attribution import Attribution, ImageAttributor
from tasks.pool.cut import CutModel, Head
from tasks.pool.embedding import embed_missing
from tasks.pool.training import nearest_of, training_items
from tasks.records import Run
from tasks.storage.feature_store import row_blocks_of

CLASSES = 3  # the likeliest ones that are shown


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why one photograph or text was given its class.

    `classes` are the likeliest with their probabilities; `heat` is as `Occlusion.heat` gives it for the first of them,
    None where the model has no maps; `words` are those of a text, with how much each speaks for that class; `near` are
    the URIs and labels of training items, the most similar first; `familiarity`, in 0..1, is None where the model does
    not say it.
    """

    image: str
    width_px: int
    height_px: int
    classes: tuple[tuple[str, float], ...]
    heat: np.ndarray | None
    near: tuple[tuple[str, str], ...]
    familiarity: float | None
    words: tuple[tuple[str, float], ...] = ()

    @property
    def familiar(self) -> bool | None:
        return None if self.familiarity is None else self.familiarity >= THRESHOLD


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A photograph after its pass."""

    sha256: str
    sides_px: tuple[int, int]
    found: Attribution


def explain(run: Run, model: CutModel, images: Sequence[Path]) -> tuple[list[Explanation], dict[str, str]]:
    """Explains what a published model says of some photographs.

    Returns:
        An explanation for each image, in the given order; and of images that can't be used the reason, by path.
    """
    training = training_items(run.workspace, model)
    attribute = ImageAttributor(model, training["uri"].tolist(), run.config.ingest.max_pixels)
    seen, faults = _look_at(run, attribute, images)
    rows = np.stack([each.found.row for each in seen.values()]) if seen else np.empty((0, 0), np.float32)
    near = nearest_training(run, model, training, [each.sha256 for each in seen.values()], rows)
    found = [
        Explanation(
            image=image,
            width_px=each.sides_px[0],
            height_px=each.sides_px[1],
            classes=likeliest(model, each.found.probabilities),
            heat=each.found.heat,
            near=near_ones,
            familiarity=share,
        )
        for (image, each), near_ones, share in zip(seen.items(), near, familiarity_of(model, rows), strict=True)
    ]
    return found, faults


def _look_at(run: Run, attribute: ImageAttributor, images: Sequence[Path]) -> tuple[dict[str, _Seen], dict[str, str]]:
    """What was seen of each image that can be used, and what is wrong with the others, by path."""
    bounds = run.config.ingest

    def one(path: Path) -> _Seen | str:
        try:
            content = read_bytes(str(path), bounds.max_bytes)
            pixels = decode(content, bounds.max_pixels)
        except HeadstartError as exc:
            return str(exc)
        found = attribute(pixels)
        sha256 = hashlib.sha256(content).hexdigest()
        progress.advance()
        return _Seen(sha256=sha256, sides_px=(pixels.shape[1], pixels.shape[0]), found=found)

    with Progress("explain", len(images), "images") as progress, ThreadPoolExecutor(available_cores()) as pool:
        found = dict(zip(map(str, images), pool.map(one, images), strict=True))
    faults = {path: each for path, each in found.items() if isinstance(each, str)}
    return {path: each for path, each in found.items() if not isinstance(each, str)}, faults


def nearest_training(
    run: Run, model: CutModel, training: pd.DataFrame, sha256s: Sequence[str], rows: np.ndarray
) -> list[tuple[tuple[str, str], ...]]:
    """(URI, label) of the training items that resemble each item most; never the item itself.

    Args:
        training: see `training_items`.
        rows: what the head takes of each, [N, D].
    """
    if not len(rows):
        return []
    bad, _ = embed_missing(run, model, training)
    training = training[~training["sha256"].isin(bad.keys())].reset_index(drop=True)
    blocks = row_blocks_of(run.workspace, model.key, training["sha256"].tolist(), np.float16)
    found = nearest_of(training, blocks, sha256s, rows[:, : model.last_width])
    return [tuple(zip(near["uri"], near["label"], strict=True)) for near in found]


def familiarity_of(model: CutModel, rows: np.ndarray) -> list[float | None]:
    """The familiarity of each row [N, D]; None where the model does not say it."""
    found = Head(model).predict(rows).familiarity if len(rows) else None
    return [None] * len(rows) if found is None else [float(share) for share in found]


def likeliest(model: CutModel, probabilities: np.ndarray) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-probabilities, kind="stable")[:CLASSES]
    return tuple((model.labels[at], float(probabilities[at])) for at in order)
