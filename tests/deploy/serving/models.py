"""Small published models that meet the contract, made with onnx alone: fast, and no TensorFlow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

COLOURS = ("red", "green", "blue")


def colour_model(
    labels: Sequence[str] = COLOURS, *, turn: int = 0, sharpness: float = 0.02, familiarity: bool = False
) -> bytes:
    """Names an image after its strongest channel, `turn` classes on: so `turn` tells versions apart.

    `image` uint8 [N, H, W, 3] -> mean over H and W -> a linear layer -> softmax -> `probabilities`, `label`.

    Args:
        familiarity: with that output, too: bright colours are familiar (a strongest channel of 175 or more).
    """
    weights = np.zeros((3, len(labels)), np.float32)
    for channel in range(3):
        weights[channel, (channel + turn) % len(labels)] = sharpness
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
    ]
    answering, outputs = answers(len(labels), strength="means" if familiarity else None)
    nodes += answering
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        outputs,
        [
            numpy_helper.from_array(np.array([1], np.int64), "second"),
            numpy_helper.from_array(np.array(175, np.float32), "least"),
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            numpy_helper.from_array(np.array(labels, object), "labels"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"labels": json.dumps(list(labels)), "name": "colours"})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def answers(classes: int, strength: str | None) -> tuple[list[onnx.NodeProto], list[onnx.ValueInfoProto]]:
    """The nodes from `logits` to the outputs of the contract, and these; they need the constants `labels`, `second`
    (the axis 1) and `least`.

    Args:
        strength: the value [N, D] whose maximum, above `least`, makes an item familiar; None has no such output.
    """
    nodes = [
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["index"], axis=1, keepdims=0),
        helper.make_node("Gather", ["labels", "index"], ["label"]),
    ]
    outputs = [
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes]),
        helper.make_tensor_value_info("label", TensorProto.STRING, ["N"]),
    ]
    if strength:
        nodes += [
            helper.make_node("ReduceMax", [strength, "second"], ["strongest"], keepdims=0),
            helper.make_node("Sub", ["strongest", "least"], ["score"]),
            helper.make_node("Sigmoid", ["score"], ["familiarity"]),
        ]
        outputs.append(helper.make_tensor_value_info("familiarity", TensorProto.FLOAT, ["N"]))
    return nodes, outputs


def manifest(content: bytes, version: int, /, **changes: Any) -> dict[str, Any]:
    gates = [
        {
            "name": "min_accuracy",
            "passed": True,
            "value": 0.9,
            "threshold": 0.8,
            "reason": "0.9 is at least 0.8",
        },
        {
            "name": "parity of labels",
            "passed": True,
            "value": 1e-7,
            "threshold": 1e-4,
            "reason": "all labels agree",
        },
    ]
    return {
        "name": "colours",
        "version": version,
        "files": {"model.onnx": hashlib.sha256(content).hexdigest()},
        "metrics": {},
        "decision": {"promote": True, "gates": gates},
        "lineage": {},
        **changes,
    }


def publish(workspace: Path, version: int, /, *, content: bytes | None = None, **changes: Any) -> Path:
    """Lays a version into `workspace`/models/colours, whole at once. `turn` of the model is its version."""
    content = colour_model(turn=version - 1) if content is None else content
    models = workspace / "models" / "colours"
    aside = models / f".{version}.part"
    aside.mkdir(parents=True)
    (aside / "model.onnx").write_bytes(content)
    (aside / "manifest.json").write_text(json.dumps(manifest(content, version, **changes)))
    return aside.rename(models / str(version))
