"""The trunk's one export to ONNX."""

from __future__ import annotations

import hashlib

import onnx

from tasks import keras_process
from tasks.artifacts import Run, TrunkRef
from tasks.backbones.registry import POOLED, get_backbone
from tasks.backbones.trunk import build_trunk, build_upper
from tasks.keras_export import to_onnx
from tasks.onnx_graph import chain, describe, keep_output, preprocessing
from tasks.user_cache import user_cache


def ensure_exported(run: Run, trunk: TrunkRef) -> bool:
    """Exports the float32 trunk where the workspace has no such graph yet. True where it had to."""
    from filelock import FileLock

    place = hashlib.sha256(f"{run.workspace.url} {trunk.onnx_path}".encode()).hexdigest()[:16]
    # Of the threads and processes of this machine whoever comes second finds it done.
    with FileLock(user_cache("files") / f"{place}.lock"):
        if run.workspace.exists(trunk.onnx_path):
            return False
        run.workspace.write_bytes(trunk.onnx_path, keras_process.call(_exported, trunk))
        return True


def _exported(trunk: TrunkRef) -> bytes:
    return export_trunk(trunk).SerializeToString()


def export_trunk(trunk: TrunkRef) -> onnx.ModelProto:
    """The graph from `image` uint8 [N, H, W, 3] to what `TrunkRef` says."""
    lower = to_onnx(build_trunk(trunk), input_name="pixels", output_name=trunk.output, channels_first=True)
    model = chain(preprocessing(trunk.image_size_px, get_backbone(trunk.backbone).normalisation), lower)
    if trunk.boundary != POOLED:
        upper = to_onnx(build_upper(trunk), input_name="activations", output_name="features", channels_first=False)
        model = keep_output(chain(model, upper), model.graph.output[0])
    describe(model, {"recipe": trunk.head_recipe, "backbone": trunk.backbone, "boundary": trunk.boundary})
    return model
