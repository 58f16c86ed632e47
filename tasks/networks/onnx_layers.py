"""The values of an ONNX graph that are worth pooling beside its output: one of each late block.

The same rule as `tasks.networks.layers` has for Keras, on operators in place of layers; and transformers.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from tasks.networks.onnx_nodes import REDUCTIONS, attribute, constants, reduced_axes

ACTIVATIONS = ("BatchNormalization", "Clip", "Relu", "LeakyRelu", "PRelu", "Elu", "HardSwish", "Gelu", "Mish")
GATES = ("Sigmoid", "HardSigmoid")  # SiLU and hard swish, written out: a value times its gate
RESHAPING = ("Reshape", "Identity", "Flatten")
POOLING = ("GlobalAveragePool", "ReduceMean", "AveragePool", "Flatten", "Squeeze", "Reshape", "Identity")


def late_values(model: onnx.ModelProto, output: str) -> list[str]:
    """A value of each block below an output, from the last block down: its depthwise convolution; in a network without
    those, its sum or concatenation; in a plain one, each convolution. With the activation behind it.

    Values without pixels, such as the weights of channels that an image's mean gives, are none of them."""
    graph = _Graph(model.graph, output)
    found = [graph.activated(node) for node in graph.nodes if graph.is_depthwise(node)]
    sums = [node for node in graph.nodes if node.op_type == "Add" and graph.joins(node)]
    if not found and any(node.op_type == "Softmax" for node in graph.nodes):
        # Attention: two sums a block, each of which the next branch and the next sum use. Not the last block's, of
        # which the output is made.
        found = [node.output[0] for node in sums[:-1] if graph.branches(node)][1::2]
    joined = [node for node in graph.nodes if node.op_type == "Concat" and graph.joins(node)]
    found = [name for name in found if graph.has_pixels(name)]
    for nodes in (sums, joined, [node for node in graph.nodes if node.op_type == "Conv"]):
        found = found or [name for name in map(graph.activated, nodes) if graph.has_pixels(name)]
    return [name for name in reversed(found) if not graph.is_output(name)]


def late_sums(model: onnx.ModelProto, output: str) -> list[str]:
    """The output of each block of a transformer, from the last but one down: where a normalisation follows the sum, the
    normalised one. Of two in a block the second: of the attention, and of the layers behind it."""
    normalised = [node.output[0] for node in model.graph.node if node.op_type == "LayerNormalization"]
    return normalised[::-1][2::2] if normalised else late_values(model, output)


class _Graph:
    """Who makes and who uses each value, of those that an output is made of."""

    def __init__(self, graph: onnx.GraphProto, output: str) -> None:
        self._constants = constants(graph)
        self.nodes = _below(graph, output)
        self._users: dict[str, list[onnx.NodeProto]] = {}
        self._computed = {value.name for value in graph.input} - set(self._constants)
        self._summaries: set[str] = set()  # what is computed from summaries over an image's pixels alone
        for node in self.nodes:  # which are in the order of their computation
            for name in node.input:
                self._users.setdefault(name, []).append(node)
            computed = self._computed.intersection(node.input)
            if computed:
                self._computed.update(node.output)
            if computed and (computed <= self._summaries or self._summarises(node)):
                self._summaries.update(node.output)
        self._output = output

    def _summarises(self, node: onnx.NodeProto) -> bool:
        """Whether what a node gives has no pixels left."""
        if node.op_type in REDUCTIONS:
            return len(reduced_axes(node, self._constants)) > 1
        return node.op_type in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "Shape", "Size")

    def has_pixels(self, name: str) -> bool:
        """Whether a value is a map or tokens, and no summary of an image."""
        return name not in self._summaries

    def is_depthwise(self, node: onnx.NodeProto) -> bool:
        """Whether a node is a convolution of one channel a group."""
        if node.op_type != "Conv" or attribute(node, "group", 1) == 1:
            return False
        kernel = self._constants.get(node.input[1])
        return kernel is None or kernel.dims[1] == 1

    def joins(self, node: onnx.NodeProto) -> bool:
        """Whether all that a sum or concatenation joins is computed from the image."""
        return self._computed.issuperset(node.input)

    def branches(self, node: onnx.NodeProto) -> bool:
        """Whether several nodes use a node's value, or what it is reshaped to: Swin turns maps into tokens between."""
        users = self._users.get(node.output[0], [])
        while len(users) == 1 and users[0].op_type in RESHAPING:
            users = self._users.get(users[0].output[0], [])
        return len(users) > 1

    def activated(self, node: onnx.NodeProto) -> str:
        """The value of a node, or that of the activation behind it, where nothing else uses the node's."""
        name = node.output[0]
        while following := self._activation(name):
            name = following.output[0]
        return name

    def is_output(self, name: str) -> bool:
        """Whether a value is the output, or is used by nothing but the pooling before it."""
        only_pooled = all(user.op_type in POOLING for user in self._users.get(name, []))
        return name == self._output or (only_pooled and self._output in self._pooled(name))

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


def _below(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """The nodes that an output is made by, in the graph's order."""
    wanted, found = {output}, []
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input)
            found.append(node)
    return found[::-1]
