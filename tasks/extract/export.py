"""Exports the feature extractor to ONNX."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import onnx

from tasks.config import POOLED
from tasks.display import line
from tasks.networks import keras_process
from tasks.networks.extractor import build_extractor, build_upper, feature_widths
from tasks.networks.keras_export import to_onnx
from tasks.networks.onnx_backbone import extractor_graph
from tasks.networks.onnx_description import read_text_description
from tasks.networks.onnx_graph import chain, describe, keep_output, preprocessing
from tasks.networks.registry import get_backbone
from tasks.networks.text_backbone import COMPANY, depends_on_company, read_tokenizer
from tasks.records import FeatureExtractor, Run
from tasks.storage.artifacts import Artifact
from tasks.workspace import user_cache

log = logging.getLogger(__name__)


def ensure_exported(run: Run, extractor: FeatureExtractor) -> FeatureExtractor:
    """Exports the float32 feature extractor, unless the workspace has a sound graph of it; returns it with the widths
    of its layers."""
    from filelock import FileLock

    artifact = Artifact(run.workspace, "extractor", extractor.head_key)
    place = hashlib.sha256(run.workspace.display(artifact.folder).encode()).hexdigest()[:16]
    # Threads and processes of one machine export it only once.
    with FileLock(user_cache("files") / f"{place}.lock"):
        record = artifact.read()
        if record is None:
            content, widths = _exported(extractor) if extractor.is_file else keras_process.call(_exported, extractor)
            run.workspace.write_bytes(extractor.onnx_path, content)
            if extractor.task == "text":
                file = Path(extractor.weights)
                run.workspace.write_bytes(extractor.tokenizer_path, read_tokenizer(file, read_text_description(file)))
            artifact.finish(record := {"widths": widths})
    return replace(extractor, widths=tuple(record.get("widths", ())))  # older ones have the last layer alone


def _exported(extractor: FeatureExtractor) -> tuple[bytes, list[int]]:
    if extractor.is_file:
        model, widths = extractor_graph(extractor)
        if extractor.task == "text" and depends_on_company(model):
            line(f"  warning   {extractor.weights} {COMPANY}")
            log.warning("%s %s", extractor.weights, COMPANY)
        describe(model, {"recipe": extractor.head_key, "backbone": extractor.backbone, "boundary": extractor.boundary})
        return model.SerializeToString(), list(widths.values())
    return export_extractor(extractor).SerializeToString(), list(feature_widths(extractor))


def export_extractor(extractor: FeatureExtractor) -> onnx.ModelProto:
    """The graph from `image` uint8 [N, H, W, 3] to the outputs of `FeatureExtractor`."""
    lower = to_onnx(build_extractor(extractor), input_name="pixels", output_name=extractor.output, channels_first=True)
    model = chain(preprocessing(extractor.image_size_px, get_backbone(extractor.backbone).normalisation), lower)
    if extractor.boundary != POOLED:
        upper = to_onnx(build_upper(extractor), input_name="activations", output_name="features", channels_first=False)
        model = keep_output(chain(model, upper), model.graph.output[0])
    describe(model, {"recipe": extractor.head_key, "backbone": extractor.backbone, "boundary": extractor.boundary})
    return model
