"""Keras to ONNX through tf2onnx: the one place where it is called."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from tasks.errors import ExportError
from tasks.networks.onnx_graph import OPSET, rename_batch

if TYPE_CHECKING:
    import keras


def to_onnx(model: keras.Model, *, input_name: str, output_name: str, channels_first: bool) -> onnx.ModelProto:
    """One input, one output, inference mode.

    Args:
        channels_first: whether the graph takes [N, C, H, W] where the Keras model takes [N, H, W, C].

    Raises:
        ExportError: tf2onnx can't express the model.
    """
    import tensorflow as tf
    import tf2onnx

    shape = (None, *model.inputs[0].shape[1:])

    # `training=False` is not a default to rely on: Keras 3.15 can leak training=True into later layers.
    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name=input_name)])
    def forward(values):
        return tf.identity(model(values, training=False), name=output_name)

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    try:
        graph, _ = tf2onnx.convert.from_function(
            forward,
            input_signature=forward.input_signature,
            opset=OPSET,
            inputs_as_nchw=[f"{input_name}:0"] if channels_first else None,
            custom_op_handlers={"Erfc": (_erfc, [])},
        )
    except Exception as exc:
        raise ExportError(f"tf2onnx can't export {model.name}: {exc}") from exc
    _settle_constants(graph.graph, forward.get_concrete_function().graph)
    if len(graph.graph.input) != 1:
        extra = ", ".join(value.name for value in graph.graph.input[1:])
        raise ExportError(f"tf2onnx made inputs of constants of {model.name}: {extra}")
    _rename(graph.graph, graph.graph.input[0].name, input_name)
    _rename(graph.graph, graph.graph.output[0].name, output_name)
    rename_batch(graph)
    return graph


def _erfc(context: Any, node: Any, name: str, args: Any) -> None:
    """TensorFlow's Erfc (in Keras's exact GELU), which tf2onnx doesn't know and ONNX doesn't have: 1 - Erf."""
    [values] = node.input
    context.remove_node(node.name)
    erf = context.make_node("Erf", [values]).output[0]
    one = context.make_const(f"{name}_one", np.ones((), np.float32)).output[0]
    context.make_node("Sub", [one, erf], name=name, outputs=node.output)


def _settle_constants(graph: onnx.GraphProto, traced: Any) -> None:
    """Gives constants that a layer holds as tensors (Keras's Normalization does) their values: tf2onnx takes them for
    inputs, some of which it has folded away.

    Args:
        traced: the TensorFlow graph that was converted.
    """
    import tensorflow as tf

    used = {name for node in graph.node for name in node.input}
    inputs = [value for value in graph.input if value.name in used]
    del graph.input[:]
    for value in inputs:
        operation = traced.get_operation_by_name(value.name.split(":")[0])
        if operation.type == "Const":
            content = tf.make_ndarray(operation.get_attr("value"))
            graph.initializer.append(onnx.numpy_helper.from_array(content, value.name))
        else:
            graph.input.append(value)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Renames a value wherever it is made and used."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.name == old:
            value.name = new
