"""Where a model comes from: enough to make it again."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from tasks.records import FeatureExtractor, Head, Run, Snapshot

LIBRARIES = ("headstart", "tensorflow", "keras", "onnx", "onnxruntime", "tf2onnx", "numpy", "pillow", "albumentations")


def lineage(run: Run, snapshot: Snapshot, extractor: FeatureExtractor, head: Head) -> dict[str, Any]:
    """Snapshot, key, head, configuration and library versions."""
    return {
        "snapshot": snapshot.id,
        "recipe": extractor.head_key,
        "recipes": sorted({extractor.key, extractor.head_key}),
        "trunk": extractor.onnx_path,
        "precision": extractor.precision,
        "backbone": extractor.backbone,
        "boundary": extractor.boundary,
        "head_digest": head.digest,
        "config_digest": run.config.digest(),
        "config": run.config.model_dump(by_alias=True),
        "auto": run.workspace.read_json(run.path("auto.json")) if run.config.auto.enabled else None,
        "source": run.source,
        "libraries": {library: version(library) for library in LIBRARIES},
    }
