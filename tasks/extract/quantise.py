"""The 8-bit feature extractor, calibrated on training images; it makes the features and is part of model.onnx."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np
import onnx

from tasks.modality.images.content import decode
from tasks.modality.items import read_checked
from tasks.networks.extractor import key_digest
from tasks.networks.onnx_graph import describe
from tasks.networks.onnx_session import open_session
from tasks.networks.quantisation import quantise
from tasks.records import FeatureExtractor, Run, Snapshot
from tasks.storage.artifacts import Artifact
from tasks.storage.snapshots import read_snapshot

log = logging.getLogger(__name__)

CALIBRATION_IMAGES = 64
TIMED_IMAGES = 8
# Of the time in 32 bits: MobileNetV2 takes 0.5 of it on a processor with VNNI, and 1.0 on one without.
MOST_TIME = 0.8
# Part of every 8-bit key: raise it when the same images would give a different graph.
QUANTISATION_VERSION = 1


def quantised(run: Run, extractor: FeatureExtractor, snapshot: Snapshot) -> FeatureExtractor:
    """The 8-bit version of an exported feature extractor; calibrates it if the model has none yet.

    Each model name has its own one, because the ranges depend on its images. It is calibrated only once, because other
    ranges would change all features. Its key depends on the calibration images. A lost file is made again, from the
    same images if they still exist.
    """
    artifact = Artifact(run.workspace, "extractor", f"{extractor.head_key}-int8-{run.name}")
    path = artifact.path("extractor.onnx")
    if artifact.read() is None:
        model = _quantise(run, extractor, _calibration_images(run, snapshot))
        run.workspace.write_bytes(path, model.SerializeToString())
        artifact.finish({})
    model = onnx.load_model_from_string(run.workspace.read_bytes(path))
    keys = {entry.key: entry.value for entry in model.metadata_props}
    lower = keys["activations"] if extractor.output == "activations" else None
    return replace(extractor, key=keys["features"], activations_key=lower, onnx_path=path, precision="int8")


def _quantise(run: Run, extractor: FeatureExtractor, images: list[tuple[str, str]]) -> onnx.ModelProto:
    """The 8-bit graph, calibrated on images given as (sha256, uri); its metadata holds the keys of its outputs."""
    identity = {"trunk": extractor.head_key, "version": QUANTISATION_VERSION, "images": [name for name, _ in images]}

    def pixels(sha256: str, uri: str) -> np.ndarray:
        return decode(read_checked(uri, sha256), run.config.ingest.max_pixels)

    float32 = onnx.load_model_from_string(run.workspace.read_bytes(extractor.onnx_path))
    model = quantise(float32, extractor.output, (pixels(*image) for image in images))
    log_speed(*milliseconds_an_image((float32, model), [pixels(*image) for image in images[:TIMED_IMAGES]]))
    about = {"backbone": extractor.backbone, "boundary": extractor.boundary, "precision": "int8"}
    keys = {output: key_digest({**identity, "output": output}) for output in ("features", "activations")}
    describe(model, about | keys)
    return model


def milliseconds_an_image(models: Sequence[onnx.ModelProto], images: Sequence[np.ndarray]) -> list[float]:
    """What an image, uint8 [H, W, 3], takes each of some models on one thread: medians, the models in turn."""
    sessions = [open_session(model.SerializeToString()) for model in models]
    took_ms: list[list[float]] = [[] for _ in models]
    for image in [images[0], *images]:  # the first image twice: first runs allocate
        for session, took in zip(sessions, took_ms, strict=True):
            started = time.perf_counter()
            session.run(None, {"image": image[None]})
            took.append(1000 * (time.perf_counter() - started))
    return [median(took[1:]) for took in took_ms]


def log_speed(float32_ms: float, int8_ms: float) -> None:
    """Logs what an image takes in 8 bits; warns where that is hardly less than in 32."""
    sentence = f"an image takes {int8_ms:.1f} ms in 8 bits here, {float32_ms:.1f} ms in 32 bits"
    if int8_ms <= MOST_TIME * float32_ms:
        log.info(sentence)
    else:
        log.warning(
            "--precision int8 makes a smaller model, but hardly a faster one on this processor: %s. Processors with "
            "products of 8-bit numbers (AVX-512 VNNI, AVX-VNNI) take half the time",
            sentence,
        )


def _calibration_images(run: Run, snapshot: Snapshot) -> list[tuple[str, str]]:
    """(sha256, uri) of training images. The lowest digests are a random sample that hardly changes as images arrive."""
    table = read_snapshot(run.workspace, snapshot.id, ["sha256", "uri", "split"])
    chosen = table[table["split"] == "train"].sort_values("sha256").head(CALIBRATION_IMAGES)
    return list(chosen[["sha256", "uri"]].itertuples(index=False, name=None))
