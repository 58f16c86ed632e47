"""model.onnx: preprocessing, the very feature extractor that made the features, the head, calibrated softmax and label
lookup."""

from __future__ import annotations

import hashlib

import onnx

from tasks.networks.head_file import load_head
from tasks.networks.keras_export import to_onnx
from tasks.networks.onnx_graph import chain, classification, describe, part
from tasks.records import Candidate, FeatureExtractor, Head, Run, Snapshot


def export_model(run: Run, snapshot: Snapshot, extractor: FeatureExtractor, head: Head, version: int) -> Candidate:
    """Writes `candidate/model.onnx` into the run's folder: the file that is judged, and ships if it is promoted.

    Input `image` uint8 [N, H, W, 3] RGB, N, H and W dynamic; outputs `probabilities` float32 [N, C] and `label`
    string [N]; metadata `labels`, `name`, `version`, `snapshot`, `recipe`.

    Raises:
        ExportError: the parts don't fit, or the checker refuses the whole.
    """
    layers = to_onnx(
        load_head(run.workspace, head.keras_path),
        input_name=extractor.output,
        output_name="logits",
        channels_first=False,
    )
    body = part(
        onnx.load_model_from_string(run.workspace.read_bytes(extractor.onnx_path)), ["image"], [extractor.output]
    )
    model = chain(body, layers, classification(snapshot.labels, head.temperature))
    del model.metadata_props[:]
    metadata = {
        "labels": list(snapshot.labels),
        "name": run.name,
        "version": str(version),
        "snapshot": snapshot.id,
        "recipe": extractor.head_key,
    }
    describe(model, metadata)
    content = model.SerializeToString()
    run.workspace.write_bytes(run.path("candidate/model.onnx"), content)
    return Candidate(
        onnx_path=run.path("candidate/model.onnx"), sha256=hashlib.sha256(content).hexdigest(), version=version
    )
