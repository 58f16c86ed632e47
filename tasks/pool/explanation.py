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
from tasks.networks.occlusion import Look, Occlusion
from tasks.networks.onnx_session import available_cores
from tasks.networks.outputs import THRESHOLD
from tasks.pool.cut import CutModel, Head
from tasks.pool.embedding import embed_missing
from tasks.pool.neighbours import NEAREST
from tasks.records import Run
from tasks.storage.feature_store import row_blocks_of
from tasks.storage.similar import most_similar
from tasks.storage.snapshots import read_snapshot

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
    """A photograph after its pass, without its maps."""

    sha256: str
    sides_px: tuple[int, int]
    look: Look
    heat: np.ndarray | None


def explain(run: Run, model: CutModel, images: Sequence[Path]) -> tuple[list[Explanation], dict[str, str]]:
    """Explains what a published model says of some photographs.

    Returns:
        An explanation for each image, in the given order; and of images that can't be used the reason, by path.
    """
    occlusion = Occlusion(model.whole, model.output)
    training = training_items(run, model)
    # Digests are in no order, so the first photographs are random ones.
    typical = occlusion.typical_of(training["uri"].tolist(), max_pixels=run.config.ingest.max_pixels)
    seen, faults = _look_at(run, occlusion, images, typical)
    rows = np.stack([each.look.row for each in seen.values()]) if seen else np.empty((0, 0), np.float32)
    near = nearest_training(run, model, training, [each.sha256 for each in seen.values()], rows)
    familiarity = _familiarity(model, list(seen.values()))
    found = [
        Explanation(
            image=image,
            width_px=each.sides_px[0],
            height_px=each.sides_px[1],
            classes=likeliest(model, each.look.probabilities),
            heat=each.heat,
            near=near_ones,
            familiarity=share,
        )
        for (image, each), near_ones, share in zip(seen.items(), near, familiarity, strict=True)
    ]
    return found, faults


def training_items(run: Run, model: CutModel) -> pd.DataFrame:
    """Columns sha256, uri and label."""
    table = read_snapshot(run.workspace, model.snapshot, ["sha256", "uri", "label", "split"])
    training = table[table["split"] == "train"].drop_duplicates("sha256").sort_values("sha256")
    return training[["sha256", "uri", "label"]].reset_index(drop=True)


def _look_at(
    run: Run, occlusion: Occlusion, images: Sequence[Path], typical: Sequence[np.ndarray]
) -> tuple[dict[str, _Seen], dict[str, str]]:
    """What was seen of each image that can be used, and what is wrong with the others, by path."""
    bounds = run.config.ingest

    def one(path: Path) -> _Seen | str:
        try:
            content = read_bytes(str(path), bounds.max_bytes)
            pixels = decode(content, bounds.max_pixels)
        except HeadstartError as exc:
            return str(exc)
        look = occlusion.look(pixels)
        heat = occlusion.heat(look, int(look.probabilities.argmax()), typical) if occlusion.has_maps else None
        bare = Look(probabilities=look.probabilities, row=look.row, maps=())
        sha256 = hashlib.sha256(content).hexdigest()
        progress.advance()
        return _Seen(sha256=sha256, sides_px=(pixels.shape[1], pixels.shape[0]), look=bare, heat=heat)

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
    place = dict(zip(training["sha256"], training.index, strict=True))
    own = np.array([place.get(sha256, -1) for sha256 in sha256s])
    blocks = row_blocks_of(run.workspace, model.key, training["sha256"].tolist(), np.float16)
    places = list(zip(training["uri"], training["label"], strict=True))
    return [
        tuple(places[at] for at in found) for found in most_similar(rows[:, : model.last_width], blocks, NEAREST, own)
    ]


def _familiarity(model: CutModel, seen: Sequence[_Seen]) -> list[float | None]:
    found = Head(model).predict(np.stack([each.look.row for each in seen])).familiarity if seen else None
    return [None] * len(seen) if found is None else [float(share) for share in found]


def likeliest(model: CutModel, probabilities: np.ndarray) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-probabilities, kind="stable")[:CLASSES]
    return tuple((model.labels[at], float(probabilities[at])) for at in order)
