"""Which dimension of a map holds its channels, by the operators around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.networks.onnx_layout import Layout


def layout(*nodes: tuple[str, list[str], list[str], dict[str, Any]], **constants: Any) -> Layout:
    """Of a graph that takes `x`."""
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, outputs, **given) for kind, inputs, outputs, given in nodes],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8, 8, 8])],
        [onnx.ValueInfoProto(name=nodes[-1][2][0])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return Layout(graph)


WIDE = np.ones(8, np.float32)


@pytest.mark.parametrize(
    ("kind", "given", "constants", "expected"),
    [
        ("Conv", {}, {"w": np.ones((8, 8, 1, 1), np.float32)}, 1),
        ("GlobalAveragePool", {}, {}, 1),
        ("MaxPool", {"kernel_shape": [2, 2]}, {}, 1),
        ("LayerNormalization", {"axis": -1}, {"w": WIDE}, 3),
        ("LayerNormalization", {"axis": 1}, {"w": np.ones((8, 8, 8), np.float32)}, None),
        ("MatMul", {}, {"w": np.ones((8, 4), np.float32)}, 3),
        ("Add", {}, {"w": WIDE}, 3),
        ("Mul", {}, {"w": WIDE.reshape(8, 1, 1)}, 1),
        ("Mul", {}, {"w": WIDE.reshape(1, 1, 1, 8)}, 3),
        ("Add", {}, {"w": np.ones((8, 8), np.float32)}, None),  # a position's, most likely
        ("Mul", {}, {"w": np.float32(2)}, None),
        ("ReduceMean", {"axes": [2, 3]}, {}, 1),
        ("ReduceMean", {"axes": [-3, -2], "keepdims": 0}, {}, 3),
        ("ReduceMean", {}, {"w": np.array([1, 2])}, 3),
        ("ReduceMean", {"axes": [-1]}, {}, 3),  # a normalisation's
        ("ReduceMean", {"axes": [3], "keepdims": 0}, {}, None),
        ("ReduceMean", {"axes": [1, 2, 3]}, {}, None),
        ("Reshape", {}, {"w": np.array([0, 64, 8])}, None),
        ("Relu", {}, {}, None),
    ],
)
def test_an_operator_says_where_the_channels_of_its_input_are(
    kind: str, given: dict[str, Any], constants: dict[str, Any], expected: int | None
):
    assert layout((kind, ["x", *constants], ["y"], given), **constants).channels("x") == expected


def test_channels_are_followed_through_transposes_and_operators_that_keep_the_order():
    found = layout(
        ("Relu", ["x"], ["a"], {}),
        ("Transpose", ["a"], ["b"], {"perm": [0, 2, 3, 1]}),
        ("Add", ["b", "two"], ["c"], {}),
        ("Transpose", ["c"], ["d"], {"perm": [0, 3, 1, 2]}),
        ("Sigmoid", ["d"], ["e"], {}),
        ("Conv", ["e", "kernel"], ["f"], {}),
        two=np.float32(2),
        kernel=np.ones((8, 8, 1, 1), np.float32),
    )
    assert [found.channels(name) for name in "xabcdef"] == [1, 1, 3, 3, 1, 1, 1]


def test_the_nearest_operator_decides_and_a_kernel_or_a_number_of_pixels_is_no_map():
    found = layout(
        ("Conv", ["x", "kernel"], ["a"], {}),
        ("Reshape", ["a", "sides"], ["b"], {}),
        ("Shape", ["b"], ["count"], {}),
        ("Mul", ["count", "twos"], ["end"], {}),
        ("Slice", ["b", "start", "end"], ["c"], {}),
        ("Tanh", ["c"], ["d"], {}),
        kernel=np.ones((8, 8, 1, 1), np.float32),
        sides=np.array([0, 8, 8, 8]),
        twos=np.array([2, 2, 2, 2]),
        start=np.zeros(4, np.int64),
    )
    assert [found.channels(name) for name in "abcd"] == [1, None, None, None]
