"""Reads the nodes of an ONNX graph: their attributes, and the constants that they are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import helper, numpy_helper

REDUCTIONS = {"ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"}


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute."""
    found = next((each for each in node.attribute if each.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The graph's constants, as initialisers or as nodes. Weights are among them, so none is decoded here."""
    found = {constant.name: constant for constant in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Constant"]
    return found | {node.output[0]: value for node in nodes if (value := attribute(node, "value", None)) is not None}


def reduced_axes(node: onnx.NodeProto, known: Mapping[str, onnx.TensorProto]) -> list[int]:
    """The dimensions that a node takes the mean or another summary of; none where the graph does not say."""
    if len(node.input) < 2:  # as before version 18
        return list(attribute(node, "axes", []))
    return numpy_helper.to_array(known[node.input[1]]).ravel().tolist() if node.input[1] in known else []
