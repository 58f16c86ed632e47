"""The feature extractor in 8 bits: quantised on training images; features are made by it, and it ships."""

from __future__ import annotations

from dataclasses import replace

import onnx

from tasks.modality.images import decode, read_checked
from tasks.networks.extractor import key_digest
from tasks.networks.onnx_graph import describe
from tasks.networks.quantisation import quantise
from tasks.records import FeatureExtractor, Run, Snapshot
from tasks.storage.tables import read_table

CALIBRATION_IMAGES = 64
# Part of every 8-bit key: raise it when the same images would give another graph.
QUANTISATION_VERSION = 1


def quantised(run: Run, extractor: FeatureExtractor, snapshot: Snapshot) -> FeatureExtractor:
    """The 8-bit form of an exported feature extractor, calibrated where the model has none yet.

    Each model name has one of its own, for the ranges are those of its images. It is calibrated once and then kept, for
    with other ranges each feature would be another. Its key names the images that it was calibrated on; where the
    file is lost, it is made again, from the same images if they are there.
    """
    path = extractor.onnx_path.replace(".onnx", f"-int8-{run.name}.onnx")
    if not run.workspace.exists(path):
        images = _calibration_images(run, snapshot)
        identity = {
            "trunk": extractor.head_key,
            "version": QUANTISATION_VERSION,
            "images": [name for name, _ in images],
        }
        pixels = (decode(read_checked(uri, sha256), run.config.ingest.max_pixels) for sha256, uri in images)
        model = quantise(
            onnx.load_model_from_string(run.workspace.read_bytes(extractor.onnx_path)), extractor.output, pixels
        )
        describe(
            model,
            {"backbone": extractor.backbone, "boundary": extractor.boundary, "precision": "int8"}
            | {output: key_digest({**identity, "output": output}) for output in ("features", "activations")},
        )
        run.workspace.write_bytes(path, model.SerializeToString())
    return _described(run, path, extractor)


def _described(run: Run, path: str, extractor: FeatureExtractor) -> FeatureExtractor:
    model = onnx.load_model_from_string(run.workspace.read_bytes(path))
    keys = {entry.key: entry.value for entry in model.metadata_props}
    lower = keys["activations"] if extractor.output == "activations" else None
    return replace(extractor, key=keys["features"], activations_key=lower, onnx_path=path, precision="int8")


def _calibration_images(run: Run, snapshot: Snapshot) -> list[tuple[str, str]]:
    """(sha256, uri) of training images. The lowest digests are as good as a draw, and stay when others arrive."""
    table = read_table(run.workspace, snapshot.table_path, ["sha256", "uri", "split"])
    chosen = table[table["split"] == "train"].sort_values("sha256").head(CALIBRATION_IMAGES)
    return list(chosen[["sha256", "uri"]].itertuples(index=False, name=None))
