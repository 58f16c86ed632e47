"""Reads a network that is given as an ONNX file, which may come from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tasks.errors import ConfigError, DamagedFileError
from tasks.modality.feeds import Feed
from tasks.networks.onnx_graph import OPSET, check, with_opset
from tasks.networks.onnx_session import open_session
from tasks.networks.self_contained import check_self_contained

MAX_BYTES = 1 << 30
STANDARD_DOMAINS = ("", "ai.onnx")
OWN = "network/"  # before the names of the file's own values, which may be anything


def read_graph(file: Path) -> onnx.ModelProto:
    """The graph of a network, in the operators' version that headstart ships.

    Raises:
        ConfigError: no such file, a file that is too large, no ONNX graph, tensors in other files, or custom operators.
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
    try:
        return with_opset(model, OPSET)
    except Exception as exc:
        raise ConfigError(
            f"{file} can't be converted to operators of version {OPSET}: export it with opset_version={OPSET} ({exc})"
        ) from exc


def probed_shapes(network: onnx.ModelProto, names: Sequence[str], feed: Feed) -> dict[str, tuple[int, ...]]:
    """The shapes of values in a graph, from a run on `feed`: inference alone rarely knows them all. Raises whatever
    ONNX Runtime does where the graph does not run."""
    probe = onnx.ModelProto()
    probe.CopyFrom(network)
    known = {value.name for value in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in known)
    found = open_session(probe.SerializeToString()).run(list(names), feed)
    return {name: np.asarray(value).shape for name, value in zip(names, found, strict=True)}


def give_features(graph: onnx.GraphProto, rows: Sequence[str], widths: Mapping[str, int]) -> None:
    """Makes `features` float32 [N, D], these rows side by side, the graph's one output."""
    graph.node.append(helper.make_node("Concat", list(rows), ["features"], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", sum(widths.values())]))


def first_token(graph: onnx.GraphProto, name: str, rows: str) -> str:
    """Adds the nodes that take the first token of a value [N, T, D]; returns the name of the result, [N, D]."""
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), f"{rows}_first"))
    graph.node.append(helper.make_node("Gather", [name, f"{rows}_first"], [f"{rows}_class"], axis=1))
    return f"{rows}_class"


def mean_over(graph: onnx.GraphProto, name: str, rows: str, axes: list[int]) -> None:
    """Adds the node that makes `rows`, the mean of a value over some of its dimensions."""
    graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), f"{rows}_axes"))
    graph.node.append(helper.make_node("ReduceMean", [name, f"{rows}_axes"], [rows], keepdims=0))
