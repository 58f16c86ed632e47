"""Why the candidate was wrong: of each mistake a heat map, and the training photographs that resemble it most."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow.compute as pc

from tasks.errors import HeadstartError
from tasks.modality.images.content import decode
from tasks.modality.images.heat_picture import heat_picture
from tasks.modality.items import read_bytes
from tasks.networks.occlusion import Occlusion
from tasks.networks.onnx_session import available_cores
from tasks.report.evidence import Evidence, Prediction
from tasks.report.thumbnails import data_uri, nearest_previews, preview, previews
from tasks.storage.feature_store import load_features, row_blocks_of
from tasks.storage.similar import most_similar

Training = dict[str, list[str]]  # columns

NEAREST = 3
NEAR_PX = 88
ENOUGH_PX = 448  # JPEGs are decoded no larger: a heat map has few spots


def explained(evidence: Evidence, mistakes: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Of each mistake the picture, its heat map (None where there is none) and its nearest training photographs.

    A report has to outlive its parts: what can't be read any more is left out.
    """
    training = _training(evidence)
    with ThreadPoolExecutor(available_cores()) as pool:
        shown = list(pool.map(lambda p: preview(p.uri), mistakes))
        heats = list(pool.map(_heat_maker(evidence, training), mistakes))
    near = _nearest(evidence, training, mistakes)
    small = previews((uri for places in near for uri, _ in places), NEAR_PX)
    return [
        {"prediction": p, **item, "heat": heat if item else None, "near": nearest_previews(places, small)}
        for p, item, heat, places in zip(mistakes, shown, heats, near, strict=True)
    ]


def _heat_maker(evidence: Evidence, training: Training) -> Any:
    """What makes the heat map of a mistake: a `data:` URI or None."""
    path = f"{(evidence.summary.get('artifacts') or {}).get('export')}/model.onnx"
    workspace = evidence.run.workspace
    if not evidence.judged or not workspace.exists(path):
        return lambda _: None
    try:
        occlusion = Occlusion(workspace.read_bytes(path))
    except HeadstartError:
        return lambda _: None
    if not occlusion.has_maps:
        return lambda _: None
    typical = occlusion.typical_of(training["uri"], enough_px=ENOUGH_PX)
    return partial(_heat, occlusion, typical, evidence.labels)


def _heat(
    occlusion: Occlusion, typical: Sequence[np.ndarray], labels: Sequence[str], mistake: Prediction
) -> str | None:
    try:
        pixels = decode(read_bytes(mistake.uri), enough_px=ENOUGH_PX)
    except HeadstartError:  # it can't be read any more
        return None
    heat = occlusion.heat(occlusion.look(pixels), labels.index(mistake.predicted), typical)
    return data_uri(heat_picture(heat, pixels.shape[1], pixels.shape[0]), "image/png")


def _nearest(evidence: Evidence, training: Training, mistakes: Sequence[Prediction]) -> list[list[tuple[str, str]]]:
    """(URI, label) of the training photographs with the most similar stored features, for each mistake."""
    extractor = ((evidence.summary.get("lineage") or {}).get("features") or {}).get("extractor") or {}
    if not mistakes or not extractor or not training["sha256"]:
        return [[] for _ in mistakes]
    workspace, key = evidence.run.workspace, extractor["key"]
    last = next(iter(extractor.get("widths") or ()), None)  # the last layer's features show likeness best
    try:
        rows = load_features(workspace, key, [mistake.sha256 for mistake in mistakes], 0)
        found = most_similar(rows[:, :last], row_blocks_of(workspace, key, training["sha256"], np.float16), NEAREST)
    except HeadstartError:  # rows were removed since
        return [[] for _ in mistakes]
    return [[(training["uri"][at], training["label"][at]) for at in places] for places in found]


def _training(evidence: Evidence) -> Training:
    """The training photographs: sha256, uri and label, by digest, which is in no order."""
    if evidence.snapshot is None:
        return {"sha256": [], "uri": [], "label": []}
    training = evidence.snapshot.filter(pc.field("split") == "train").select(["sha256", "uri", "label"])
    return training.sort_by("sha256").to_pydict()
