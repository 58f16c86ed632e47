"""Models that take what is not theirs: a file beside them, all of the memory, or all of the time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from tests.deploy.serving.models import colour_model


def with_external_weights(content: bytes, beside: Path) -> bytes:
    """The model with its tensor `weights` in the file `beside`, by its name alone."""
    model = onnx.load_model_from_string(content)
    [weights] = [tensor for tensor in model.graph.initializer if tensor.name == "weights"]
    beside.write_bytes(weights.raw_data)
    set_external_data(weights, beside.name, 0, len(weights.raw_data))
    weights.ClearField("raw_data")
    return model.SerializeToString()


def insatiable_model() -> bytes:
    """A model of a few hundred bytes that asks for 4 TB when it predicts."""
    model = onnx.load_model_from_string(colour_model())
    for node in model.graph.node:
        node.output[:] = ["modest" if name == "logits" else name for name in node.output]
    more = [
        helper.make_node("ConstantOfShape", ["many"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Add", ["modest", "zero"], ["logits"]),
    ]
    nodes = [*model.graph.node[:3], *more, *model.graph.node[3:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array([10**12], np.int64), "many"))
    return model.SerializeToString()


def endless_model() -> bytes:
    """A model of a few hundred bytes that loops 10**15 times when it predicts."""
    model = onnx.load_model_from_string(colour_model())
    for node in model.graph.node:
        node.output[:] = ["modest" if name == "logits" else name for name in node.output]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["carried", "carried"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    loop = helper.make_node("Loop", ["turns", "", "modest"], ["logits"], body=body)
    model.graph.node.insert(3, loop)
    model.graph.initializer.append(numpy_helper.from_array(np.array(10**15, np.int64), "turns"))
    return model.SerializeToString()
