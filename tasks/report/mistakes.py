"""Why the candidate was wrong: of each mistake a heat map, and the training photographs that resemble it most."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from tasks.errors import HeadstartError
from tasks.modality.images.content import decode
from tasks.modality.images.heat_picture import heat_picture
from tasks.modality.items import read_bytes
from tasks.networks.occlusion import TYPICAL, Look, Occlusion
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
    looks = [look for uri in training["uri"][:TYPICAL] if (look := _look(occlusion, uri)[0])]
    return partial(_heat, occlusion, occlusion.typical(looks), evidence.labels)


def _heat(
    occlusion: Occlusion, typical: Sequence[np.ndarray], labels: Sequence[str], mistake: Prediction
) -> str | None:
    look, (width_px, height_px) = _look(occlusion, mistake.uri)
    if look is None:
        return None
    heat = occlusion.heat(look, labels.index(mistake.predicted), typical)
    return data_uri(heat_picture(heat, width_px, height_px), "image/png")


def _look(occlusion: Occlusion, uri: str) -> tuple[Look | None, tuple[int, int]]:
    """One pass of an image, and its width and height; None where it can't be read any more."""
    try:
        pixels = decode(read_bytes(uri), enough_px=ENOUGH_PX)
    except HeadstartError:
        return None, (1, 1)
    return occlusion.look(pixels), (pixels.shape[1], pixels.shape[0])


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
    rows = {row["sha256"]: row for row in evidence.snapshot.to_pylist() if row["split"] == "train"}
    return {key: [rows[sha256][key] for sha256 in sorted(rows)] for key in ("sha256", "uri", "label")}
