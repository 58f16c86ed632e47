"""Where a model comes from: enough to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

from tasks.records import Head, Run

LIBRARIES = ("headstart", "tensorflow", "keras", "onnx", "onnxruntime", "tf2onnx", "numpy", "pillow", "albumentations")


@cache
def library_versions() -> dict[str, str]:
    """The versions of the libraries that a result depends on."""
    return {library: version(library) for library in LIBRARIES}


def lineage(run: Run, head: Head, artifacts: Mapping[str, str]) -> dict[str, Any]:
    """Snapshot, keys, head, configuration, library versions, and the folder of each artifact by its stage."""
    extractor = head.features.extractor
    return {
        "snapshot": head.features.snapshot.id,
        "recipe": extractor.head_key,
        "recipes": sorted({extractor.key, extractor.head_key}),
        "trunk": extractor.onnx_path,
        "precision": extractor.precision,
        "backbone": extractor.backbone,
        "boundary": extractor.boundary,
        "head_digest": head.digest,
        "artifacts": dict(artifacts),
        "config_digest": run.config.digest(),
        "config": run.config.model_dump(by_alias=True),
        "auto": run.workspace.read_json(run.path("auto.json")) if run.config.auto.enabled else None,
        "source": run.source,
        "libraries": library_versions(),
    }
