"""model.onnx: preprocessing, the feature extractor that made the features, the head, calibrated softmax and labels."""

from __future__ import annotations

import hashlib

import onnx

from tasks.networks.head_file import load_head
from tasks.networks.keras_export import to_onnx
from tasks.networks.onnx_graph import chain, classification, describe, part
from tasks.records import Candidate, Head, Run


def export_model(run: Run, head: Head, version: int) -> Candidate:
    """Writes `model.onnx`, the file that is evaluated, and published if the gates promote it.

    Input `image` uint8 [N, H, W, 3] RGB, N, H and W dynamic; outputs `probabilities` float32 [N, C] and `label`
    string [N]; metadata `labels`, `name`, `version`, `snapshot`, `recipe`.

    Raises:
        ExportError: the parts don't fit together, or the ONNX checker rejects the model.
    """
    snapshot, extractor = head.features.snapshot, head.features.extractor
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
    path = run.path("model.onnx")
    run.workspace.write_bytes(path, content)
    return Candidate(head=head, onnx_path=path, sha256=hashlib.sha256(content).hexdigest(), version=version)
