"""The trunk in 8 bits: static quantisation, calibrated on training images; features are made by it, and it ships.

Activations are unsigned 8-bit, weights signed, a scale for each output channel. On processors without VNNI, ONNX
Runtime adds pairs of products in 16 bits, which overflow for 8-bit weights, so the same file would answer otherwise
there. Weights of 7 bits can't: 2 * 255 * 64 < 2**15. Only depthwise convolutions, whose kernels multiply in 32 bits
everywhere, keep 8: they lose most by the missing bit. Measured on MobileNetV2 at 224 px, as the squared error of the
pooled features over their variance: 8-bit weights 0.05, 7-bit 0.16, 7-bit but depthwise 8: 0.08, all three equally
fast; unsigned weights, exact everywhere too, ran at an eighth of the speed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from tasks.artifacts import Run, SnapshotRef, TrunkRef
from tasks.backbones.trunk import recipe_digest
from tasks.images import decode, read_checked
from tasks.onnx_graph import chain, describe, keep_output, part
from tasks.onnx_session import open_session
from tasks.tables import read_table

CALIBRATION_IMAGES = 64
# Part of every 8-bit recipe: raise it when the same images would give another graph.
QUANTISATION_VERSION = 1


def quantised(run: Run, trunk: TrunkRef, snapshot: SnapshotRef) -> TrunkRef:
    """The 8-bit form of an exported trunk, calibrated where the workspace has none yet.

    It is calibrated once and then kept, for with other ranges each feature would be another. Its recipe names the
    images that it was calibrated on; where the file is lost, it is made again, from the same images if they are there.
    """
    path = trunk.onnx_path.replace(".onnx", "-int8.onnx")
    if not run.workspace.exists(path):
        images = _calibration_images(run, snapshot)
        identity = {"trunk": trunk.head_recipe, "version": QUANTISATION_VERSION, "images": [name for name, _ in images]}
        pixels = (decode(read_checked(uri, sha256), run.config.ingest.max_pixels) for sha256, uri in images)
        model = quantise(onnx.load_model_from_string(run.workspace.read_bytes(trunk.onnx_path)), trunk.output, pixels)
        describe(
            model,
            {"backbone": trunk.backbone, "boundary": trunk.boundary, "precision": "int8"}
            | {output: recipe_digest({**identity, "output": output}) for output in ("features", "activations")},
        )
        run.workspace.write_bytes(path, model.SerializeToString())
    return _described(run, path, trunk)


def _described(run: Run, path: str, trunk: TrunkRef) -> TrunkRef:
    model = onnx.load_model_from_string(run.workspace.read_bytes(path))
    recipes = {entry.key: entry.value for entry in model.metadata_props}
    lower = recipes["activations"] if trunk.output == "activations" else None
    return replace(trunk, recipe=recipes["features"], activations_recipe=lower, onnx_path=path, precision="int8")


def quantise(model: onnx.ModelProto, output: str, images: Iterator[np.ndarray]) -> onnx.ModelProto:
    """The same graph with everything between `pixels` and `output` in 8 bits.

    Args:
        model: an exported trunk.
        output: `features` or `activations`: what lies behind the boundary stays in float32.
        images: uint8 [H, W, 3], to calibrate on.
    """
    preprocessing = part(model, ["image"], ["pixels"])
    session = open_session(preprocessing.SerializeToString())
    calibration = [np.asarray(session.run(["pixels"], {"image": image[None]})[0]) for image in images]
    lower = chain(preprocessing, _quantised_layers(part(model, ["pixels"], [output]), calibration))
    if output == "features":
        return lower
    upper = part(model, [output], ["features"])
    return keep_output(chain(lower, upper), lower.graph.output[0])


def _quantised_layers(model: onnx.ModelProto, calibration: Sequence[np.ndarray]) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder:
        folded, target = Path(folder) / "folded.onnx", Path(folder) / "int8.onnx"
        convolutions = [node for node in _fold(model, folded).graph.node if node.op_type == "Conv"]
        depthwise = [node.input[1] for node in convolutions if _groups(node) > 1]
        eight_bits = {"axis": 0, "quant_type": QuantType.QInt8, "reduce_range": False, "symmetric": True}
        quantize_static(
            folded,
            target,
            _reader(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,
            extra_options={"TensorQuantOverrides": {weights: [eight_bits] for weights in depthwise}},
        )
        return part(onnx.load(target), [model.graph.input[0].name], [model.graph.output[0].name])


def _fold(model: onnx.ModelProto, target: Path) -> onnx.ModelProto:
    """Folds batch norm and padding into the convolutions, so that they are quantised as one; writes and returns it."""
    import onnxruntime as ort
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    folded = onnx.load(target)
    del folded.opset_import[:]  # ONNX Runtime names every domain that it knows
    folded.opset_import.extend(model.opset_import)
    add_pre_process_metadata(folded)  # or the quantiser asks for what was just done
    onnx.save(folded, target)
    return folded


def _groups(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def _reader(calibration: Sequence[np.ndarray]):
    """What hands ONNX Runtime's calibrator one image after another."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._pixels = iter(calibration)

        def get_next(self):
            pixels = next(self._pixels, None)
            return None if pixels is None else {"pixels": pixels}

    return Reader()


def _calibration_images(run: Run, snapshot: SnapshotRef) -> list[tuple[str, str]]:
    """(sha256, uri) of training images. The lowest digests are as good as a draw, and stay when others arrive."""
    table = read_table(run.workspace, snapshot.table_path, ["sha256", "uri", "split"])
    chosen = table[table["split"] == "train"].sort_values("sha256").head(CALIBRATION_IMAGES)
    return list(chosen[["sha256", "uri"]].itertuples(index=False, name=None))
