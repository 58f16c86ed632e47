"""Any image network as the backbone: FILE.onnx, and FILE.toml beside it, which says how it wants its pixels.

Nothing above it can be trained, for that takes Keras: the head is a classifier on pooled features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from tasks.errors import ConfigError, DamagedFileError
from tasks.networks.onnx_description import Description, description_path, read_description
from tasks.networks.onnx_graph import OPSET, chain, check, check_names, preprocessing, with_opset
from tasks.networks.onnx_layers import late_values
from tasks.networks.onnx_session import open_session
from tasks.networks.self_contained import check_self_contained
from tasks.records import FeatureExtractor

MAX_BYTES = 1 << 30
STANDARD_DOMAINS = ("", "ai.onnx")
PIXELS = "pixels"
OWN = "network/"  # before the names of the file's own values, which may be anything


def read_network(file: Path) -> onnx.ModelProto:
    """The graph of a network, in the operators' version that headstart ships.

    Raises:
        ConfigError: no such file, a file that is too large, no ONNX graph, tensors in other files, custom operators, or
            not one input of images.
    """
    if not file.is_file():
        raise ConfigError(f"no ONNX file at {file}")
    if file.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{file} has {file.stat().st_size / 1e6:,.0f} MB; at most {MAX_BYTES / 1e6:,.0f} are allowed")
    try:
        content = file.read_bytes()
        check_self_contained(content)
        model = check(onnx.load_model_from_string(content))
    except DamagedFileError as exc:
        raise ConfigError(f"{file} can't be a backbone: {exc}") from None
    except Exception as exc:
        raise ConfigError(f"{file} can't be a backbone: it is no valid ONNX graph ({exc})") from exc
    operators = {(node.domain, node.op_type) for node in model.graph.node}
    if custom := sorted(".".join(each) for each in operators if each[0] not in STANDARD_DOMAINS):
        raise ConfigError(f"{file} can't be a backbone: {', '.join(custom[:3])} are no standard operators of ONNX")
    image_input(model, file)
    try:
        return with_opset(model, OPSET)
    except Exception as exc:
        raise ConfigError(
            f"{file} can't be converted to operators of version {OPSET}: export it with opset_version={OPSET} ({exc})"
        ) from exc


def image_input(model: onnx.ModelProto, file: Path) -> onnx.ValueInfoProto:
    """The network's input. Raises ConfigError where it is not one float32 tensor of four dimensions."""
    constants = {constant.name for constant in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    kinds = [(value.type.tensor_type.elem_type, len(value.type.tensor_type.shape.dim)) for value in inputs]
    if kinds != [(TensorProto.FLOAT, 4)]:
        found = ", ".join(value.name for value in inputs) or "none"
        raise ConfigError(
            f"{file} can't be a backbone: it needs one input, float32 [N, 3, S, S] or [N, S, S, 3]; found {found}"
        )
    return inputs[0]


def extractor_graph(extractor: FeatureExtractor) -> tuple[onnx.ModelProto, dict[str, int]]:
    """`build_file_extractor` of the file that an extractor names."""
    file = Path(extractor.weights)
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
    network = read_network(file)
    size = description.image_size_px
    output = description.output or network.graph.output[0].name
    late = late_values(network) if isinstance(layers, int) else list(layers)
    check_names(network, [output, *late], str(file))
    network, output, late = compose.add_prefix(network, OWN), OWN + output, [OWN + name for name in late]
    _put_pixels(network, file, description)
    shapes = value_shapes(network, [output, *late], size, file)
    if isinstance(layers, int):
        late = [name for name in late if len(shapes[name]) in (3, 4)][:layers]
    means, widths = [], {}
    for name in (output, *late):
        rows, widths[name.removeprefix(OWN)] = _pool(network.graph, name, shapes[name], description, name == output)
        means.append(rows)
    network.graph.node.append(helper.make_node("Concat", means, ["features"], axis=1))
    del network.graph.output[:]
    network.graph.output.append(
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", sum(widths.values())])
    )
    before = preprocessing(size, description.normalisation, description.resize, description.crop)
    return chain(before, network), widths


def value_shapes(network: onnx.ModelProto, names: Sequence[str], size: int, file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of values in a graph, from a run on two empty images: inference alone rarely knows them all.

    Raises:
        ConfigError: the network does not run.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(network)
    known = {value.name for value in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in known)
    try:
        session = open_session(probe.SerializeToString())
        found = session.run(list(names), {PIXELS: np.zeros((2, 3, size, size), np.float32)})
        shapes = {name: np.asarray(value).shape for name, value in zip(names, found, strict=True)}
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


def _pool(
    graph: onnx.GraphProto, name: str, shape: tuple[int, ...], description: Description, is_output: bool
) -> tuple[str, int]:
    """Adds the nodes that make one row an image of a value: the row's name, and its width. Raises ConfigError."""
    rows = f"{name}_pooled"
    if len(shape) == 2:
        return name, shape[1]
    if len(shape) == 4:
        # Convolutions give [N, C, h, w], whatever layout the network's own input and output have.
        last = is_output and description.layout == "NHWC"
        _mean(graph, name, rows, [1, 2] if last else [2, 3])
        return rows, shape[3] if last else shape[1]
    if len(shape) != 3:
        raise ConfigError(f"{name} has the shape {list(shape)}: images' rows, maps or tokens can be pooled")
    parts = []
    if description.tokens != "mean":
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), f"{rows}_first"))
        graph.node.append(helper.make_node("Gather", [name, f"{rows}_first"], [f"{rows}_class"], axis=1))
        parts.append(f"{rows}_class")
    if description.tokens != "class":
        _mean(graph, name, f"{rows}_mean", [1])
        parts.append(f"{rows}_mean")
    graph.node.append(helper.make_node("Concat", parts, [rows], axis=1))
    return rows, len(parts) * shape[2]


def _mean(graph: onnx.GraphProto, name: str, rows: str, axes: list[int]) -> None:
    graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), f"{rows}_axes"))
    graph.node.append(helper.make_node("ReduceMean", [name, f"{rows}_axes"], [rows], keepdims=0))
