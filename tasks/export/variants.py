"""Variants of a promoted model.onnx: float16 (half the size) and int8 (a quarter; faster on CPUs with int8 products).

Only the feature extractor, from `pixels` to the freeze boundary, is converted: resize positions don't fit into 16 bits,
and converting the head would save little and lose much accuracy. Each variant is measured on this machine, over the
whole test split. One that loses more accuracy than `export.max_accuracy_drop` is not published; the manifest records
that.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pandas as pd

from tasks.errors import ExportError
from tasks.modality.images.content import decode
from tasks.modality.items import read_checked
from tasks.networks.classifier import Classifier
from tasks.networks.onnx_graph import chain, describe, part
from tasks.networks.quantisation import quantise
from tasks.records import Candidate, Decision, Run, Snapshot, Variant
from tasks.storage.snapshots import read_snapshot
from tasks.storage.tables import read_table

CALIBRATION_IMAGES = 100  # of the training split; more images hardly change the ranges of activations
TIMED_IMAGES, TIMED_ROUNDS = 8, 3


def export_variants(run: Run, decision: Decision) -> tuple[Variant, ...]:
    """Makes and measures the configured variants.

    Raises:
        ExportError: the graph can't be converted.
        SourceChangedError, SourceError: an image can no longer be read.
    """
    if not run.config.export.variants:
        return ()
    columns = ["sha256", "uri", "label", "split", "predicted"]
    rows = read_table(run.workspace, f"{decision.folder}/predictions.parquet", columns)
    test = rows[rows["split"] == "test"].reset_index(drop=True)
    return tuple(_variant(run, decision.candidate, test, precision) for precision in run.config.export.variants)


def _variant(run: Run, candidate: Candidate, test: pd.DataFrame, precision: str) -> Variant:
    content = run.workspace.read_bytes(candidate.onnx_path)
    features = candidate.head.features
    model = onnx.load_model_from_string(content)
    try:
        boundary = features.extractor.output
        if precision == "float16":
            converted = to_float16(model, boundary)
        else:
            converted = quantise(model, boundary, _calibration(run, features.snapshot))
    except Exception as exc:
        raise ExportError(f"model.onnx can't be converted to {precision}: {exc}") from exc
    describe(converted, {entry.key: entry.value for entry in model.metadata_props} | {"precision": precision})
    made = converted.SerializeToString()
    measured = _measure(run, content, made, test)
    path = run.path(f"model.{precision}.onnx")
    run.workspace.write_bytes(path, made)
    return Variant(
        precision=precision,
        onnx_path=path,
        sha256=hashlib.sha256(made).hexdigest(),
        published=measured["accuracy_drop"] <= run.config.export.max_accuracy_drop,
        measured=measured,
    )


def to_float16(model: onnx.ModelProto, boundary: str) -> onnx.ModelProto:
    """Weights and arithmetic from `pixels` to `boundary` in float16; inputs and outputs stay unchanged."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    before, extractor, after = _parts(model, boundary)
    return _joined(before, convert_float_to_float16(extractor, keep_io_types=True), after)


def _parts(model: onnx.ModelProto, boundary: str) -> list[onnx.ModelProto]:
    """The graph before the feature extractor, the feature extractor, and the rest. Raises ExportError."""
    outputs = [output.name for output in model.graph.output]
    return [part(model, inputs, ends) for inputs, ends in pairwise([["image"], ["pixels"], [boundary], outputs])]


def _joined(before: onnx.ModelProto, extractor: onnx.ModelProto, after: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.quantization.onnx_model import ONNXModel

    ONNXModel(extractor).topological_sort()  # converters append casts at the end
    extractor.ir_version = before.ir_version
    for each in (before, extractor, after):
        del each.graph.value_info[:]  # inferred again for the whole model
    return chain(before, extractor, after)


def _calibration(run: Run, snapshot: Snapshot) -> Iterator[np.ndarray]:
    rows = read_snapshot(run.workspace, snapshot.id, ["sha256", "uri", "split"])
    train = rows[rows["split"] == "train"]
    chosen = train.iloc[np.unique(np.linspace(0, len(train) - 1, CALIBRATION_IMAGES).astype(int))]
    for uri, sha256 in chosen[["uri", "sha256"]].itertuples(index=False):
        yield decode(read_checked(uri, sha256), run.config.ingest.max_pixels)


def _measure(run: Run, content: bytes, made: bytes, test: pd.DataFrame) -> dict[str, Any]:
    """Accuracy on the test split and time for an image on one core, compared with the evaluated model.onnx."""
    variant = Classifier(made)
    max_pixels = run.config.ingest.max_pixels
    reads = [partial(read_checked, uri, sha256) for uri, sha256 in zip(test["uri"], test["sha256"], strict=True)]
    predictions = variant.classify_all(reads, workers=run.config.extract.workers, max_pixels=max_pixels)
    predicted = np.array([variant.labels[each.probabilities.argmax()] for each in predictions], object)
    truth, evaluated = test["label"].to_numpy(object), test["predicted"].to_numpy(object)
    accuracy = float((predicted == truth).mean())
    images = [decode(read(), max_pixels) for read in reads[:TIMED_IMAGES]]
    own_ms, whole_ms = _milliseconds([variant, Classifier(content)], images)
    return {
        "n": len(test),
        "accuracy": accuracy,
        "accuracy_drop": float((evaluated == truth).mean()) - accuracy,
        "label_agreement": float((predicted == evaluated).mean()),
        "ms_per_image": round(own_ms, 3),
        "speedup": round(whole_ms / own_ms, 3),
        "bytes": len(made),
        "size_ratio": round(len(made) / len(content), 3),
    }


def _milliseconds(classifiers: Sequence[Classifier], images: Sequence[np.ndarray]) -> list[float]:
    """CPU time for an image with each classifier, on one core; alternating, so that load affects both equally."""
    best = [float("inf")] * len(classifiers)
    for _ in range(TIMED_ROUNDS):
        for number, classifier in enumerate(classifiers):
            started = time.thread_time()
            for pixels in images:
                classifier.probabilities(pixels)
            best[number] = min(best[number], 1000 * (time.thread_time() - started) / len(images))
    return best
