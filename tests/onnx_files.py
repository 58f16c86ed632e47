"""Small networks as ONNX files, made for a test: with maps, and with tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE_PX = 32
DESCRIPTION = """
image_size_px = 32
mean = [127.5, 127.5, 127.5]
std = [127.5, 127.5, 127.5]
"""


def convolutions(file: Path, *, nhwc: bool = False, opset: int = 17) -> Path:
    """Three blocks of a depthwise convolution, SiLU and a projection to 8 channels, then the mean: [N, 8]."""
    rng = np.random.default_rng(0)
    constants: list[onnx.TensorProto] = []

    def constant(name: str, *shape: int) -> str:
        values = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        constants.append(numpy_helper.from_array(values, name))
        return name

    nodes = [helper.make_node("Transpose", ["photo"], ["planes"], perm=[0, 3, 1, 2])] if nhwc else []
    last, channels = "planes" if nhwc else "photo", 3
    for block in range(3):
        depth, gate, gated, projected = (f"{what}{block}" for what in ("depth", "gate", "gated", "projected"))
        kernel = constant(f"depthwise{block}", 2 * channels, 1, 3, 3)
        nodes += [
            helper.make_node("Conv", [last, kernel], [depth], group=channels, strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("Sigmoid", [depth], [gate]),
            helper.make_node("Mul", [depth, gate], [gated]),
            helper.make_node("Conv", [gated, constant(f"project{block}", 8, 2 * channels, 1, 1)], [projected]),
        ]
        last, channels = projected, 8
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["maps"]))
    nodes.append(helper.make_node("Flatten", ["maps"], ["features"]))
    sides = [SIDE_PX, SIDE_PX, 3] if nhwc else [3, SIDE_PX, SIDE_PX]
    return _save(file, nodes, constants, ["N", *sides], ["N", 8], opset)


def tokens(file: Path) -> Path:
    """Sixteen patches and a class token of 6 numbers, through two blocks of two residual sums each, and a sum inside
    the activation: [N, 17, 6]. Above that a second output, with another sum, [17, N, 6]."""
    rng = np.random.default_rng(1)
    constants = [
        numpy_helper.from_array(rng.normal(size=(6, 3, 8, 8)).astype(np.float32), "patch"),
        numpy_helper.from_array(np.array([0, 6, -1], np.int64), "rows"),
        numpy_helper.from_array(rng.normal(size=(6, 6)).astype(np.float32), "mix"),
        numpy_helper.from_array(np.array([0], np.int64), "first"),
    ]
    nodes = [
        helper.make_node("Conv", ["photo", "patch"], ["grid"], strides=[8, 8]),
        helper.make_node("Reshape", ["grid", "rows"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["patches"], perm=[0, 2, 1]),
        helper.make_node("Gather", ["patches", "first"], ["class"], axis=1),
        helper.make_node("Concat", ["class", "patches"], ["block0"], axis=1),
    ]
    for block in (1, 2):
        nodes += [
            helper.make_node("MatMul", [f"block{block - 1}", "mix"], [f"mixed{block}"]),
            helper.make_node("Softmax", [f"mixed{block}"], [f"shares{block}"]),
            helper.make_node("Add", [f"block{block - 1}", f"shares{block}"], [f"half{block}"]),
            helper.make_node("Tanh", [f"half{block}"], [f"bent{block}"]),
            helper.make_node("Mul", [f"bent{block}", f"bent{block}"], [f"squared{block}"]),
            helper.make_node("Add", [f"bent{block}", f"squared{block}"], [f"active{block}"]),
            helper.make_node("Add", [f"half{block}", f"active{block}"], [f"block{block}"]),
        ]
    nodes += [
        helper.make_node("Tanh", ["block2"], ["features"]),
        helper.make_node("Transpose", ["features"], ["turned"], perm=[1, 0, 2]),
        helper.make_node("Add", ["turned", "turned"], ["above"]),
    ]
    return _save(file, nodes, constants, ["N", 3, SIDE_PX, SIDE_PX], ["N", 17, 6], 18, {"above": [17, "N", 6]})


def windows(file: Path, *, written_out: bool = False, flat: bool = False) -> Path:
    """As Swin is exported: three blocks of attention and a layer, each behind a normalisation, on maps with channels
    last, [N, 8, 8, 6], which are rolled along their height; then a normalisation and the mean: [N, 6].

    Args:
        written_out: the normalisations are, as older exporters wrote them.
        flat: the layers and their sum are on tokens, [N, 64, 6], as timm has them.
    """
    rng = np.random.default_rng(2)
    constants: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def constant(name: str, value: object, kind: type = np.float32) -> str:
        constants.append(numpy_helper.from_array(np.array(value, kind), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def normalised(value: str) -> str:
        name = f"normal_{value}"
        scale, shift = constant(f"{name}_scale", rng.normal(size=6)), constant(f"{name}_shift", rng.normal(size=6))
        if not written_out:
            return node("LayerNormalization", [value, scale, shift], name, axis=-1)
        around = node("Sub", [value, node("ReduceMean", [value], f"{name}_mean", axes=[-1])], f"{name}_around")
        squares = node("Mul", [around, around], f"{name}_squares")
        variance = node("ReduceMean", [squares], f"{name}_variance", axes=[-1])
        deviation = node("Sqrt", [node("Add", [variance, constant(f"{name}_e", 1e-5)], f"{name}_v")], f"{name}_d")
        scaled = node("Mul", [node("Div", [around, deviation], f"{name}_unit"), scale], f"{name}_scaled")
        return node("Add", [scaled, shift], name)

    def layer(value: str, output: str, width: int) -> str:
        weights = constant(f"{output}_weights", rng.normal(size=(width, 18 - width)) / 3)
        return node("MatMul", [value, weights], output)

    middle, start, end = (constant(name, [at], np.int64) for name, at in (("middle", 4), ("start", 0), ("end", 99)))
    height = constant("height", [1], np.int64)
    columns, maps = constant("columns", [0, 64, 6], np.int64), constant("maps", [0, 8, 8, 6], np.int64)
    node("Conv", ["photo", constant("patch", rng.normal(size=(6, 3, 4, 4)) / 7)], "grid", strides=[4, 4])
    last = node("Transpose", ["grid"], "block0", perm=[0, 2, 3, 1])
    for block in (1, 2, 3):
        normal = normalised(last)
        lower = node("Slice", [normal, middle, end, height], f"lower{block}")
        upper = node("Slice", [normal, start, middle, height], f"upper{block}")
        rolled = node("Concat", [lower, upper], f"rolled{block}", axis=1)
        pixels = node("Reshape", [rolled, columns], f"pixels{block}")
        turned = node("Transpose", [pixels], f"turned{block}", perm=[0, 2, 1])
        shares = node("Softmax", [node("MatMul", [pixels, turned], f"likeness{block}")], f"shares{block}")
        seen = node("Reshape", [node("MatMul", [shares, pixels], f"seen{block}"), maps], f"attended{block}")
        half = node("Add", [last, seen], f"half{block}")
        if flat:
            half = node("Reshape", [half, columns], f"tokens{block}")
        wide = node("Tanh", [layer(normalised(half), f"wide{block}", 6)], f"bent{block}")
        last = node("Add", [half, layer(wide, f"narrow{block}", 12)], f"block{block}")
        if flat:
            last = node("Reshape", [last, maps], f"map{block}")
    node("ReduceMean", [normalised(last)], "features", axes=[1, 2], keepdims=0)
    return _save(file, nodes, constants, ["N", 3, SIDE_PX, SIDE_PX], ["N", 6], 17)


def excited(file: Path) -> Path:
    """Two residual blocks of a convolution whose channels are weighted by what the mean of the image gives (squeeze and
    excitation), and above their mean a sum: [N, 4, 1, 1]."""
    rng = np.random.default_rng(3)
    constants = [
        numpy_helper.from_array((rng.normal(size=shape) / 4).astype(np.float32), name)
        for name, shape in {"stem": (4, 3, 4, 4), "wide": (4, 4, 3, 3), "weigh": (4, 4, 1, 1)}.items()
    ]
    nodes = [helper.make_node("Conv", ["photo", "stem"], ["block0"], strides=[4, 4])]
    for block in (1, 2):
        nodes += [
            helper.make_node("Conv", [f"block{block - 1}", "wide"], [f"maps{block}"], pads=[1, 1, 1, 1]),
            helper.make_node("GlobalAveragePool", [f"maps{block}"], [f"mean{block}"]),
            helper.make_node("Conv", [f"mean{block}", "weigh"], [f"weights{block}"]),
            helper.make_node("Add", [f"weights{block}", f"mean{block}"], [f"gate{block}"]),
            helper.make_node("Mul", [f"maps{block}", f"gate{block}"], [f"weighted{block}"]),
            helper.make_node("Add", [f"weighted{block}", f"block{block - 1}"], [f"block{block}"]),
        ]
    nodes += [
        helper.make_node("ReduceMean", ["block2"], ["pooled"], axes=[2, 3]),
        helper.make_node("Tanh", ["pooled"], ["bent"]),
        helper.make_node("Add", ["pooled", "bent"], ["features"]),
    ]
    return _save(file, nodes, constants, ["N", 3, SIDE_PX, SIDE_PX], ["N", 4, 1, 1], 17)


def _save(
    file: Path,
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
    shape: list[str | int],
    answer: list[str | int],
    opset: int,
    others: Mapping[str, list[str | int]] = MappingProxyType({}),
) -> Path:
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("photo", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
            for name, dims in {"features": answer, **others}.items()
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, file)
    file.with_suffix(".toml").write_text(DESCRIPTION)
    return file
