"""Small graphs written by hand in ONNX, and their composition: what extraction runs and what ships.

The preprocessing is written once, here. Extraction runs it in front of the feature extractor, and the same graph ships
inside model.onnx, so training and serving can't differ in a resize, a scale or the order of channels.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx.utils
from onnx import TensorProto, compose, helper, numpy_helper

from tasks.errors import ConfigError, ExportError
from tasks.networks.normalisation import Normalisation
from tasks.networks.onnx_resize import resize_nodes

# Opset 18 is the highest that tf2onnx 1.17 writes; IR 8 is what ONNX Runtime 1.14 (2023) and later read.
OPSET = 18
IR_VERSION = 8


def preprocessing(
    image_size_px: int, normalisation: Normalisation, resize: str = "bilinear", crop: float = 1.0
) -> onnx.ModelProto:
    """The graph from `image` uint8 [N, H, W, 3] (RGB; N, H, W dynamic) to `pixels` float32 [N, 3, S, S].

    It resizes to a square (antialiased when it shrinks: what Pillow does, without its rounding), of which it cuts the
    middle, `image_size_px` wide, then normalises.

    Args:
        resize: `bilinear` or `bicubic`.
        crop: the share of each side that is left.
    """
    side = round(image_size_px / crop)
    nodes, constants = resize_nodes(side, "square", resize)
    last = "square"
    if side != image_size_px:
        corner = (side - image_size_px) // 2
        cut = {"crop_from": [corner] * 2, "crop_to": [corner + image_size_px] * 2, "crop_axes": [2, 3]}
        constants += [numpy_helper.from_array(np.array(values, np.int64), name) for name, values in cut.items()]
        nodes.append(helper.make_node("Slice", [last, "crop_from", "crop_to", "crop_axes"], ["middle"]))
        last = "middle"
    if normalisation.reverse_channels:
        nodes.append(helper.make_node("Gather", [last, "bgr"], ["reversed"], axis=1))
        constants.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), "bgr"))
        last = "reversed"
    for operation, name, values in (("Mul", "scale", normalisation.scale), ("Add", "bias", normalisation.bias)):
        nodes.append(helper.make_node(operation, [last, name], [f"after_{name}"]))
        constants.append(numpy_helper.from_array(np.array(values, np.float32).reshape(1, 3, 1, 1), name))
        last = f"after_{name}"
    nodes.append(helper.make_node("Identity", [last], ["pixels"]))
    graph = helper.make_graph(
        nodes,
        "preprocessing",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, image_size_px, image_size_px])],
        constants,
    )
    return _model(graph)


def classification(labels: Sequence[str], temperature: float) -> onnx.ModelProto:
    """The graph from `logits` float32 [N, C] to `probabilities` float32 [N, C] and `label` string [N].

    Probabilities are softmax(logits / temperature) (temperature scaling, Guo et al. 2017).
    """
    nodes = [
        helper.make_node("Div", ["logits", "temperature"], ["calibrated"]),
        helper.make_node("Softmax", ["calibrated"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["index"], axis=1, keepdims=0),
        helper.make_node("Gather", ["labels", "index"], ["label"], axis=0),
    ]
    constants = [
        numpy_helper.from_array(np.array(temperature, np.float32), "temperature"),
        numpy_helper.from_array(np.array(labels, object), "labels"),
    ]
    graph = helper.make_graph(
        nodes,
        "classification",
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(labels)])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(labels)]),
            helper.make_tensor_value_info("label", TensorProto.STRING, ["N"]),
        ],
        constants,
    )
    return _model(graph)


def chain(*models: onnx.ModelProto) -> onnx.ModelProto:
    """Joins graphs end to end: the outputs of each are the inputs, by name, of the next.

    Raises:
        ExportError: names don't meet, or the checker refuses the whole.
    """
    whole, *rest = models
    for number, model in enumerate(rest, start=1):
        # Prefixes keep equal inner names of two graphs apart; inputs and outputs keep theirs.
        part = compose.add_prefix(model, f"part{number}/", rename_inputs=False, rename_outputs=False)
        joints = [(output.name, output.name) for output in whole.graph.output]
        try:
            whole = compose.merge_models(whole, part, io_map=joints)
        except (ValueError, onnx.checker.ValidationError) as exc:
            raise ExportError(f"graphs don't fit end to end: {exc}") from exc
    return check(_model(whole.graph, whole.opset_import))


def part(model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """The subgraph between some values of a graph. Raises ExportError where there is no such value."""
    inferred = onnx.shape_inference.infer_shapes(model)
    try:
        cut = onnx.utils.Extractor(inferred).extract_model(list(inputs), list(outputs))
    except (ValueError, KeyError) as exc:
        raise ExportError(f"the graph has no part from {', '.join(inputs)} to {', '.join(outputs)}: {exc}") from exc
    del cut.graph.value_info[:]  # it lists inputs, too, which a prefix for inner values would then rename
    return check(_model(cut.graph, cut.opset_import))


def check_names(model: onnx.ModelProto, names: Sequence[str], where: str) -> None:
    """Raises ConfigError for a name that no value of the graph has."""
    known = [output for node in model.graph.node for output in node.output]
    for name in names:
        if name not in known:
            [near] = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise ConfigError(f"{where} has no value {name!r}; the nearest is {near!r}")


def with_opset(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """The same graph in the standard operators of another version. Raises whatever onnx does where it can't."""
    from onnx import version_converter

    if any(entry.version != version for entry in model.opset_import if entry.domain in ("", "ai.onnx")):
        model = version_converter.convert_version(model, version)
    del model.graph.value_info[:]
    return _model(model.graph, model.opset_import)


def keep_output(model: onnx.ModelProto, output: onnx.ValueInfoProto) -> onnx.ModelProto:
    """Makes a value that other nodes use an output, before the others."""
    outputs = [output, *model.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    return check(model)


def check(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns `model` if onnx.checker and shape inference accept it; raises ExportError otherwise."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ExportError(f"the composed graph is not valid ONNX: {exc}") from exc
    return model


def describe(model: onnx.ModelProto, metadata: Mapping[str, object]) -> None:
    """Writes `metadata` into the model: strings as they are, everything else as JSON. Replaces equal keys."""
    kept = {entry.key: entry.value for entry in model.metadata_props}
    for key, value in metadata.items():
        kept[key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    del model.metadata_props[:]
    helper.set_model_props(model, kept)


def rename_batch(model: onnx.ModelProto) -> None:
    """Names the dynamic first dimension of each input and output N (tf2onnx calls them unk__1, unk__2, …)."""
    for value in (*model.graph.input, *model.graph.output):
        dimension = value.type.tensor_type.shape.dim[0]
        dimension.Clear()
        dimension.dim_param = "N"


def _model(graph: onnx.GraphProto, opsets: Sequence[onnx.OperatorSetIdProto] | None = None) -> onnx.ModelProto:
    # Joined parts declare a domain each; of one domain the highest version is used.
    versions = {"": OPSET}
    for entry in opsets or []:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        versions[domain] = max(versions.get(domain, 0), entry.version)
    used = {node.domain for node in graph.node} | {""}
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items() if domain in used]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="headstart")
