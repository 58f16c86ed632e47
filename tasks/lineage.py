"""Where a model comes from: enough to make it again."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from tasks.artifacts import HeadRef, Run, SnapshotRef, TrunkRef

LIBRARIES = ("headstart", "tensorflow", "keras", "onnx", "onnxruntime", "tf2onnx", "numpy", "pillow", "albumentations")


def lineage(run: Run, snapshot: SnapshotRef, trunk: TrunkRef, head: HeadRef) -> dict[str, Any]:
    """Snapshot, recipe, head, configuration and library versions."""
    return {
        "snapshot": snapshot.id,
        "recipe": trunk.head_recipe,
        "recipes": sorted({trunk.recipe, trunk.head_recipe}),
        "trunk": trunk.onnx_path,
        "precision": trunk.precision,
        "backbone": trunk.backbone,
        "boundary": trunk.boundary,
        "head_digest": head.digest,
        "config_digest": run.config.digest(),
        "config": run.config.model_dump(by_alias=True),
        "auto": run.workspace.read_json(run.path("auto.json")) if run.config.auto.enabled else None,
        "source": run.source,
        "libraries": {library: version(library) for library in LIBRARIES},
    }
