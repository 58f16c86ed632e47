"""model.onnx: preprocessing, the feature extractor that made the features, the head, and what it says of an image."""

from __future__ import annotations

import hashlib

import onnx

from tasks.export.familiar import familiarity_of
from tasks.modality.feeds import INPUTS
from tasks.networks.familiarity import attach
from tasks.networks.head_file import load_head
from tasks.networks.keras_export import to_onnx
from tasks.networks.onnx_graph import chain, classification, describe, part
from tasks.networks.outputs import THRESHOLD
from tasks.records import Candidate, FamiliarityBasis, FeatureExtractor, Head, Run
from tasks.storage.repository import TOKENIZER


def export_model(run: Run, head: Head, basis: FamiliarityBasis, version: int) -> Candidate:
    """Writes `model.onnx`, the file that is evaluated, and published if the gates promote it; and `familiarity.json`.

    Input `image` uint8 [N, H, W, 3] RGB, N, H and W dynamic, or, of texts, `input_ids` and `attention_mask` int64
    [N, T], whose `tokenizer.json` is written beside it; outputs `probabilities` float32 [N, C], `label` string [N]
    and `familiarity` float32 [N] in 0..1; metadata `labels`, `name`, `version`, `snapshot`, `recipe`, and
    `familiarity`, with the threshold at which an image is familiar.

    Raises:
        ExportError: the parts don't fit together, or the ONNX checker rejects the model.
    """
    snapshot, extractor = head.features.snapshot, head.features.extractor
    keras_head = load_head(run.workspace, head.keras_path)
    layers = to_onnx(keras_head, input_name=extractor.output, output_name="logits", channels_first=False)
    graph = onnx.load_model_from_string(run.workspace.read_bytes(extractor.onnx_path))
    body = part(graph, INPUTS[extractor.task], [extractor.output])
    whole = chain(body, layers, classification(snapshot.labels, head.temperature))
    model = attach(whole, familiarity_of(run, head, basis), extractor.output)
    del model.metadata_props[:]
    threshold = {"threshold": THRESHOLD, "familiar_share": run.config.export.familiar_share}
    metadata = {
        "labels": list(snapshot.labels),
        "name": run.name,
        "version": str(version),
        "snapshot": snapshot.id,
        "recipe": extractor.head_key,
        "familiarity": threshold,
        **_about_texts(run, extractor),
    }
    describe(model, metadata)
    content = model.SerializeToString()
    path = run.path("model.onnx")
    run.workspace.write_bytes(path, content)
    found = {**threshold, "unknown_classes": run.workspace.read_json(basis.unknown_classes_path)}
    run.workspace.write_json(run.path("familiarity.json"), found)
    return Candidate(head=head, onnx_path=path, sha256=hashlib.sha256(content).hexdigest(), version=version)


def _about_texts(run: Run, extractor: FeatureExtractor) -> dict[str, str]:
    """Of a model for texts, its metadata and, beside it, its tokenizer."""
    if extractor.task != "text":
        return {}
    tokenizer = run.workspace.read_bytes(extractor.tokenizer_path)
    run.workspace.write_bytes(run.path(TOKENIZER), tokenizer)
    return {
        "task": "text",
        "max_tokens": str(extractor.max_tokens),
        TOKENIZER: hashlib.sha256(tokenizer).hexdigest(),
    }
