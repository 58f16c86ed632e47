"""The 8-bit feature extractor, calibrated on training images; it makes the features and is part of model.onnx."""

from __future__ import annotations

from dataclasses import replace

import onnx

from tasks.modality.images.content import decode
from tasks.modality.items import read_checked
from tasks.networks.extractor import key_digest
from tasks.networks.onnx_graph import describe
from tasks.networks.quantisation import quantise
from tasks.records import FeatureExtractor, Run, Snapshot
from tasks.storage.artifacts import Artifact
from tasks.storage.snapshots import read_snapshot

CALIBRATION_IMAGES = 64
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
    pixels = (decode(read_checked(uri, sha256), run.config.ingest.max_pixels) for sha256, uri in images)
    float32 = onnx.load_model_from_string(run.workspace.read_bytes(extractor.onnx_path))
    model = quantise(float32, extractor.output, pixels)
    about = {"backbone": extractor.backbone, "boundary": extractor.boundary, "precision": "int8"}
    keys = {output: key_digest({**identity, "output": output}) for output in ("features", "activations")}
    describe(model, about | keys)
    return model


def _calibration_images(run: Run, snapshot: Snapshot) -> list[tuple[str, str]]:
    """(sha256, uri) of training images. The lowest digests are a random sample that hardly changes as images arrive."""
    table = read_snapshot(run.workspace, snapshot.id, ["sha256", "uri", "split"])
    chosen = table[table["split"] == "train"].sort_values("sha256").head(CALIBRATION_IMAGES)
    return list(chosen[["sha256", "uri"]].itertuples(index=False, name=None))
