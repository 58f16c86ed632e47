"""Any image network as the backbone: FILE.onnx, and FILE.toml beside it, which says how it wants its pixels.

Nothing above it can be trained, for that takes Keras: the head is a classifier on pooled features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, compose, helper

from tasks.errors import ConfigError
from tasks.networks.onnx_description import Description, description_path, read_description, read_text_description
from tasks.networks.onnx_file import OWN, first_token, give_features, mean_over, probed_shapes, read_graph
from tasks.networks.onnx_graph import chain, check_names, preprocessing
from tasks.networks.onnx_layers import late_values
from tasks.networks.onnx_layout import Layout
from tasks.networks.text_backbone import build_text_extractor
from tasks.records import FeatureExtractor

PIXELS = "pixels"


def read_network(file: Path) -> onnx.ModelProto:
    """The graph of an image network. Raises ConfigError as `read_graph`, or where it has not one input of images."""
    network = read_graph(file)
    image_input(network, file)
    return network


def image_input(model: onnx.ModelProto, file: Path) -> onnx.ValueInfoProto:
    """The network's input. Raises ConfigError where it is not one float32 tensor of four dimensions."""
    constants = {constant.name for constant in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    kinds = [(value.type.tensor_type.elem_type, len(value.type.tensor_type.shape.dim)) for value in inputs]
    if kinds != [(TensorProto.FLOAT, 4)]:
        found = ", ".join(value.name for value in inputs) or "none"
        raise ConfigError(
            f"{file} can't be a backbone of images: it needs one input, float32 [N, 3, S, S] or [N, S, S, 3]; found "
            f"{found}"
        )
    return inputs[0]


def extractor_graph(extractor: FeatureExtractor) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The graph of the file that an extractor names, and the widths of its layers: see `build_file_extractor` and
    `build_text_extractor`."""
    file = Path(extractor.weights)
    if extractor.task == "text":
        return build_text_extractor(file, read_text_description(file), extractor.layers)
    return build_file_extractor(file, read_description(file), extractor.layers)


def build_file_extractor(
    file: Path, description: Description, layers: int | Sequence[str]
) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The graph from `image` uint8 [N, H, W, 3] to `features` float32 [N, D], and how many of those each value gives,
    the output first.

    Args:
        layers: a number of late blocks beside the network's output, or names of values in the graph.

    Raises:
        ConfigError: as `read_network`; no such value; or the network does not run on images of that size.
    """
    network, output, late, shapes = _on_pixels(file, description, layers)
    layout = Layout(network.graph)
    channels = {name: _channels(layout, name, shapes[name]) for name in (output, *late) if len(shapes[name]) == 4}
    if description.output_layout and output in channels:
        channels[output] = 3 if description.output_layout == "NHWC" else 1
    if isinstance(layers, int):
        late = [name for name in late if len(shapes[name]) == 3 or channels.get(name)][:layers]
    means, widths = [], {}
    for name in (output, *late):
        if name in channels and not channels[name]:
            way = f"say so in {description_path(file).name}: output_layout" if name == output else "name another value"
            raise ConfigError(
                f"{file} does not say which dimension of {name.removeprefix(OWN)} {list(shapes[name])} holds its "
                f"channels: {way}"
            )
        rows, width = _pool(network.graph, name, shapes[name], description, channels.get(name))
        widths[name.removeprefix(OWN)] = width
        means.append(rows)
    give_features(network.graph, means, widths)
    before = preprocessing(description.image_size_px, description.normalisation, description.resize, description.crop)
    return chain(before, network), widths


def lacks_class_token(file: Path, description: Description) -> bool:
    """Whether a network's tokens are those of a square of patches, and no class token is among them.

    Raises:
        ConfigError: as `build_file_extractor`.
    """
    _, _, _, shapes = _on_pixels(file, description, 1)
    counts = {shape[1] for shape in shapes.values() if len(shape) == 3}
    return bool(counts) and all(math.isqrt(count) ** 2 == count for count in counts)


def _on_pixels(
    file: Path, description: Description, layers: int | Sequence[str]
) -> tuple[onnx.ModelProto, str, list[str], dict[str, tuple[int, ...]]]:
    """A network that takes `pixels`, its output, its late blocks or the layers that are named, and the shapes of these.

    Raises ConfigError, as `build_file_extractor`.
    """
    network = read_network(file)
    output = description.output or network.graph.output[0].name
    late = late_values(network, output) if isinstance(layers, int) else list(layers)
    check_names(network, [output, *late], str(file))
    network, output, late = compose.add_prefix(network, OWN), OWN + output, [OWN + name for name in late]
    _put_pixels(network, file, description)
    return network, output, late, value_shapes(network, [output, *late], description.image_size_px, file)


def value_shapes(network: onnx.ModelProto, names: Sequence[str], size: int, file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of values in a graph, from a run on two empty images. Raises ConfigError where it does not run."""
    try:
        shapes = probed_shapes(network, names, {PIXELS: np.zeros((2, 3, size, size), np.float32)})
        if wrong := [name for name, shape in shapes.items() if shape[:1] != (2,)]:
            raise ValueError(f"{wrong[0].removeprefix(OWN)} has no row for each image")
    except Exception as exc:
        raise ConfigError(
            f"{file} does not run on two images of {size} pixels: export it with a dynamic first dimension, and name "
            f"the size that it takes in {description_path(file).name} ({str(exc).splitlines()[0]})"
        ) from exc
    return shapes


def _put_pixels(network: onnx.ModelProto, file: Path, description: Description) -> None:
    """Makes `pixels` [N, 3, S, S] the input."""
    value, size = image_input(network, file), description.image_size_px
    order = [0, 2, 3, 1] if description.layout == "NHWC" else [0, 1, 2, 3]
    network.graph.node.insert(0, helper.make_node("Transpose", [PIXELS], [value.name], perm=order))
    network.graph.input.remove(value)
    network.graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, ["N", 3, size, size]))


def _channels(layout: Layout, name: str, shape: tuple[int, ...]) -> int | None:
    """The dimension of a map that holds its channels: of one pixel it is the other one."""
    wide = [axis for axis in (1, 2, 3) if shape[axis] > 1]
    return wide[0] if len(wide) == 1 else layout.channels(name)


def _pool(
    graph: onnx.GraphProto, name: str, shape: tuple[int, ...], description: Description, channels: int | None
) -> tuple[str, int]:
    """Adds the nodes that make one row an image of a value: the row's name, and its width. Raises ConfigError.

    Args:
        channels: of a map, the dimension that holds them.
    """
    rows = f"{name}_pooled"
    if len(shape) == 2:
        return name, shape[1]
    if channels:
        mean_over(graph, name, rows, [axis for axis in (1, 2, 3) if axis != channels])
        return rows, shape[channels]
    if len(shape) != 3:
        raise ConfigError(f"{name} has the shape {list(shape)}: images' rows, maps or tokens can be pooled")
    parts = []
    if description.tokens != "mean":
        parts.append(first_token(graph, name, rows))
    if description.tokens != "class":
        mean_over(graph, name, f"{rows}_mean", [1])
        parts.append(f"{rows}_mean")
    graph.node.append(helper.make_node("Concat", parts, [rows], axis=1))
    return rows, len(parts) * shape[2]
