"""The trunk's one export to ONNX."""

from __future__ import annotations

import threading

import onnx

from tasks.artifacts import Run, TrunkRef
from tasks.backbones.registry import get_backbone
from tasks.backbones.trunk import build_trunk
from tasks.keras_export import to_onnx
from tasks.onnx_graph import chain, describe, preprocessing

_exporting = threading.Lock()


def ensure_exported(run: Run, trunk: TrunkRef) -> bool:
    """Exports the trunk where the workspace has no such graph yet. True where it had to."""
    with _exporting:  # whoever comes second finds it done
        if run.workspace.exists(trunk.onnx_path):
            return False
        run.workspace.write_bytes(trunk.onnx_path, export_trunk(trunk).SerializeToString())
        return True


def export_trunk(trunk: TrunkRef) -> onnx.ModelProto:
    """The graph from `image` uint8 [N, H, W, 3] to `features` float32: [N, D] pooled, or [N, h, w, C] at a boundary."""
    layers = to_onnx(build_trunk(trunk), input_name="pixels", output_name="features", channels_first=True)
    model = chain(preprocessing(trunk.image_size_px, get_backbone(trunk.backbone).normalisation), layers)
    describe(model, {"recipe": trunk.recipe, "backbone": trunk.backbone, "boundary": trunk.boundary})
    return model
