"""The layers of a Keras network: those at which it can be cut, and those whose outputs are worth pooling.

The last layer of a network keeps what its own classes needed. What it left out is still in the layers before it, and
often tells other classes apart (Evci et al. 2022, "Head2Toe").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.errors import ConfigError

if TYPE_CHECKING:
    import keras


def boundaries(network: keras.Model) -> list[str]:
    """The layers, from below, at which a network can be cut: all that lies above depends on their output alone."""
    import keras

    consumers = _consumers(network)
    found: list[str] = []
    done: set[str] = set()
    alive: set[str] = set()  # operations whose output is needed above
    for operation in network.operations:  # in topological order
        done.add(operation.name)
        alive = {name for name in alive | {operation.name} if not consumers[name] <= done}
        # The output of a model within the network is that of its own graph, not of this one.
        if alive == {operation.name} and isinstance(operation, keras.Layer) and not isinstance(operation, keras.Model):
            found.append(operation.name)
    return found[1:]  # the first is the input itself


def late_layers(network: keras.Model) -> list[str]:
    """A layer of each block, from the last block down: its depthwise convolution; in a network without those, its sum
    or concatenation; in a plain one, each convolution. With the activation behind it.

    A block's depthwise convolution has its widest maps, which the block then projects to fewer channels.
    """
    import keras

    layers = keras.layers
    consumers = _consumers(network)
    found = _activated(network, [layer for layer in network.layers if _is_depthwise(layer)], consumers)
    if not found:
        ends = boundaries(network)  # not the sums and concatenations inside a block
        for kinds in ((layers.Add, layers.Concatenate), layers.Conv2D):
            of_kind = [layer for layer in network.layers if isinstance(layer, kinds)]
            found = found or [name for name in _activated(network, of_kind, consumers) if name in ends]
    return [name for name in reversed(found) if consumers[name]]  # the last layer is pooled anyway


def feature_layers(network: keras.Model, wanted: int | tuple[str, ...], boundary: str | None = None) -> list[str]:
    """The layers that are pooled beside the last one.

    Args:
        wanted: a number of blocks, from the last one down, or the layers' names.
        boundary: a lower freeze boundary: of a number of blocks, those above it are taken.

    Raises:
        ConfigError: no such layer, no layer of maps, or one below the boundary.
    """
    order = [operation.name for operation in network.operations]
    lowest = order.index(boundary) if boundary else 0
    late = [name for name in late_layers(network) if order.index(name) >= lowest]
    if isinstance(wanted, int):
        return late[:wanted]
    for name in wanted:
        if name not in {layer.name for layer in network.layers}:
            why = f"has no layer {name!r}"
        elif len(network.get_layer(name).output.shape) != 4:
            why = f"has no maps at {name!r}"
        elif order.index(name) < lowest:
            why = f"has {name!r} below the freeze boundary {boundary}"
        else:
            continue
        raise ConfigError(f"backbone.features: {network.name} {why}; use a number, 'last', or such as {late[:3]}")
    return list(wanted)


def _consumers(network: keras.Model) -> dict[str, set[str]]:
    """The names of the operations that use each operation's output."""
    # Operations are layers and, in some networks, bare additions between them.
    consumers: dict[str, set[str]] = {operation.name: set() for operation in network.operations}
    for nodes in network._nodes_by_depth.values():  # the network's own: what is built on top of it is not part of it
        for node in nodes:
            for parent in node.parent_nodes:
                consumers[parent.operation.name].add(node.operation.name)
    return consumers


def _is_depthwise(layer: keras.Layer) -> bool:
    """Whether a layer convolves each channel by itself; ConvNeXt says so by its number of groups."""
    import keras

    if isinstance(layer, keras.layers.DepthwiseConv2D | keras.layers.SeparableConv2D):
        return True
    return isinstance(layer, keras.layers.Conv2D) and layer.groups == layer.filters > 1


def _activated(network: keras.Model, layers: Sequence[Any], consumers: dict[str, set[str]]) -> list[str]:
    """Some layers, each with the batch norm and the activation behind it that alone use its output."""
    import keras

    names = {layer.name for layer in network.layers}
    behind = (keras.layers.BatchNormalization, keras.layers.Activation, keras.layers.ReLU)
    found = []
    for layer in layers:
        while len(consumers[layer.name]) == 1 and consumers[layer.name] <= names:
            following = network.get_layer(next(iter(consumers[layer.name])))
            if not isinstance(following, behind):
                break
            layer = following
        found.append(layer.name)
    return found
