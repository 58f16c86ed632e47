"""The values of an ONNX graph that are worth pooling beside its output: one of each late block.

The same rule as `tasks.networks.layers` has for Keras, on operators in place of layers; and transformers.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

ACTIVATIONS = ("BatchNormalization", "Clip", "Relu", "LeakyRelu", "PRelu", "Elu", "HardSwish", "Gelu", "Mish")
GATES = ("Sigmoid", "HardSigmoid")  # SiLU and hard swish, written out: a value times its gate
POOLING = ("GlobalAveragePool", "ReduceMean", "AveragePool", "Flatten", "Squeeze", "Reshape", "Identity")


def late_values(model: onnx.ModelProto) -> list[str]:
    """A value of each block, from the last block down: its depthwise convolution; in a network without those, its sum
    or concatenation; in a plain one, each convolution. With the activation behind it."""
    graph = _Graph(model.graph)
    found = [graph.activated(node) for node in model.graph.node if graph.is_depthwise(node)]
    if not found:
        for kinds in (("Add",), ("Concat",), ("Conv",)):
            nodes = (node for node in model.graph.node if node.op_type in kinds and graph.joins(node))
            found = found or [graph.activated(node) for node in nodes]
        if any(node.op_type == "Softmax" for node in model.graph.node):  # attention: two sums a block
            found = found[::-1][2::2][::-1]  # not the last block's, of which the output is made
    return [name for name in reversed(found) if not graph.is_output(name)]


def late_sums(model: onnx.ModelProto) -> list[str]:
    """The output of each block of a transformer, from the last but one down: where a normalisation follows the sum, the
    normalised one. Of two in a block the second: of the attention, and of the layers behind it."""
    normalised = [node.output[0] for node in model.graph.node if node.op_type == "LayerNormalization"]
    return normalised[::-1][2::2] if normalised else late_values(model)


class _Graph:
    """Who makes and who uses each value."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._constants = {constant.name: constant for constant in graph.initializer}
        self._makers = {output: node for node in graph.node for output in node.output}
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._users.setdefault(name, []).append(node)
        self._outputs = {output.name for output in graph.output}

    def is_depthwise(self, node: onnx.NodeProto) -> bool:
        """Whether a node is a convolution of one channel a group."""
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        if node.op_type != "Conv" or groups == 1:
            return False
        kernel = self._constants.get(node.input[1])
        return kernel is None or kernel.dims[1] == 1

    def joins(self, node: onnx.NodeProto) -> bool:
        """Whether all that a sum or concatenation joins is computed from the image; true of other operators."""
        return node.op_type == "Conv" or all(self._is_computed(name) for name in node.input)

    def activated(self, node: onnx.NodeProto) -> str:
        """The value of a node, or that of the activation behind it, where nothing else uses the node's."""
        name = node.output[0]
        while following := self._activation(name):
            name = following.output[0]
        return name

    def is_output(self, name: str) -> bool:
        """Whether a value is the graph's output, or is used by nothing but the pooling before it."""
        only_pooled = all(user.op_type in POOLING for user in self._users.get(name, []))
        return name in self._outputs or (only_pooled and not self._outputs.isdisjoint(self._pooled(name)))

    def _pooled(self, name: str) -> Iterator[str]:
        for user in self._users.get(name, []):
            if user.op_type in POOLING:
                yield user.output[0]
                yield from self._pooled(user.output[0])

    def _activation(self, name: str) -> onnx.NodeProto | None:
        users = self._users.get(name, [])
        if len(users) == 1 and users[0].op_type in ACTIVATIONS:
            return users[0]
        gates = [user for user in users if user.op_type in GATES]
        products = [user for user in users if user.op_type == "Mul"]
        if len(users) == 2 and len(gates) == len(products) == 1 and gates[0].output[0] in products[0].input:
            return products[0]
        return None

    def _is_computed(self, name: str) -> bool:
        maker = self._makers.get(name)
        return name not in self._constants and (maker is None or maker.op_type != "Constant")
