"""Which dimension of a map, a value of four dimensions, holds its channels: [N, C, H, W] or [N, H, W, C].

ONNX has convolutions with channels first alone. What lies between them may have any order: Swin and ConvNeXt, as they
are exported, normalise maps with channels last, and Swin adds them so. The nearest operator that depends on it decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import onnx

from tasks.networks.onnx_nodes import REDUCTIONS, attribute, constants, reduced_axes

RANK = 4
# By the definition of each, the data has its channels first.
CHANNELS_FIRST = {
    *("Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN"),
    *("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"),
    *("DepthToSpace", "SpaceToDepth"),
}
# What they give has the order of what they are given: of all inputs, or of the first.
OF_ALL = {"Add", "Concat", "Div", "Max", "Mean", "Min", "Mul", "Pow", "Sub", "Sum", "Where"}
OF_FIRST = {
    *("Abs", "Cast", "Celu", "Clip", "DequantizeLinear", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid"),
    *("HardSwish", "Identity", "LayerNormalization", "LeakyRelu", "Log", "Mish", "Neg", "PRelu", "Pad"),
    *("QuantizeLinear", "Reciprocal", "Relu", "Resize", "Selu", "Sigmoid", "Slice", "Softplus", "Split", "Sqrt"),
    *("Tanh", "ThresholdedRelu"),
}
Order = tuple[int, ...]  # for each dimension of a value, which one of the value that is asked about it is


class Layout:
    """The order of dimensions in a graph, read from its operators."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._constants = constants(graph)
        self._computed = {value.name for value in graph.input} - set(self._constants)
        self._maker = {name: node for node in graph.node for name in node.output}
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:  # in the order of their computation
            if not self._computed.isdisjoint(node.input):
                self._computed.update(node.output)
            for name in node.input:
                self._users.setdefault(name, []).append(node)

    def channels(self, name: str) -> int | None:
        """The dimension of a map that holds its channels, 1..3; None where no operator near it says."""
        waiting: deque[tuple[str, Order]] = deque([(name, tuple(range(RANK)))])
        seen = {name}
        while waiting:
            value, order = waiting.popleft()
            for node in self._around(value):
                found = self._said_by(node, value)
                if found is not None and found % RANK:
                    return order[found % RANK]
                for other, its_order in self._across(node, value, order):
                    if other not in seen:
                        seen.add(other)
                        waiting.append((other, its_order))
        return None

    def _around(self, value: str) -> Iterator[onnx.NodeProto]:
        if value in self._maker:
            yield self._maker[value]
        yield from self._users.get(value, [])

    def _said_by(self, node: onnx.NodeProto, value: str) -> int | None:
        """The dimension of the channels, where a node that makes or uses a value depends on it."""
        if value not in (*node.input[:1], *node.output) and node.op_type not in OF_ALL:
            return None  # a kernel, a scale, a number of pixels
        if node.op_type in CHANNELS_FIRST:
            return 1
        if node.op_type == "LayerNormalization":
            return -1 if attribute(node, "axis", -1) in (-1, RANK - 1) else None
        if node.op_type == "MatMul":  # a layer on each pixel's channels; of two computed values it is attention
            return -1 if node.input[1] not in self._computed else None
        if node.op_type in REDUCTIONS:
            return _left_over(node, reduced_axes(node, self._constants))
        return self._scaled(node) if node.op_type in ("Add", "Mul", "Sub", "Div") else None

    def _scaled(self, node: onnx.NodeProto) -> int | None:
        """The one dimension along which a constant differs that is added to a map, or that it is multiplied by."""
        for name in node.input:
            if (constant := self._constants.get(name)) is not None:
                wide = [axis - len(constant.dims) for axis, size in enumerate(constant.dims) if size > 1]
                return wide[0] if len(wide) == 1 else None
        return None

    def _across(self, node: onnx.NodeProto, value: str, order: Order) -> Iterator[tuple[str, Order]]:
        """The values on the other side of a node that keeps or permutes dimensions, each with its order."""
        if node.op_type == "Transpose":
            permutation = attribute(node, "perm", list(range(RANK))[::-1])
            if len(permutation) != RANK:
                return
            if value == node.input[0]:
                yield node.output[0], tuple(order[axis] for axis in permutation)
            else:
                yield node.input[0], tuple(order[permutation.index(axis)] for axis in range(RANK))
        elif node.op_type in OF_ALL or (node.op_type in OF_FIRST and value in (node.input[0], *node.output)):
            inputs = node.input if node.op_type in OF_ALL else node.input[:1]
            yield from ((name, order) for name in (*inputs, *node.output) if name in self._computed)


def _left_over(node: onnx.NodeProto, reduced: list[int]) -> int | None:
    """The channels, by what a summary is taken over: the pixels (pooling), or the channels (a normalisation)."""
    axes = {axis % RANK for axis in reduced}
    if len(axes) == 2 and 0 not in axes:
        [left] = {1, 2, 3} - axes
        return left
    return min(axes) if len(axes) == 1 and attribute(node, "keepdims", 1) else None
