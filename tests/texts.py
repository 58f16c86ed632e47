"""Small models and encoders of texts, made with onnx alone, over a vocabulary of a few words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace

from tests.deploy.serving.models import answers, manifest

WORDS = ("[UNK]", "good", "bad", "ship", "train", "very", "the", "a", "was", "late")
MOODS = ("good", "bad")


def tokenizer() -> bytes:
    """Words in small letters; other words are [UNK]."""
    made = Tokenizer(WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = Lowercase()  # type: ignore[assignment]
    made.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    return made.to_str().encode()


def mood_model(labels: Sequence[str] = MOODS, *, familiarity: bool = False) -> bytes:
    """Names a text after the word of its label that is in it oftener.

    Args:
        familiarity: with that output: texts with a known word are familiar.
    """
    weights = np.zeros((len(WORDS), len(labels)), np.float32)
    for column, word in enumerate(MOODS[: len(labels)]):
        weights[WORDS.index(word), column] = 8
    nodes = [
        helper.make_node("Gather", ["weights", "input_ids"], ["votes"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["shares"]),
        helper.make_node("Mul", ["votes", "shares"], ["counted"]),
        helper.make_node("ReduceMean", ["counted", "second"], ["logits"], keepdims=0),
    ]
    answering, outputs = answers(len(labels), strength="logits" if familiarity else None)
    nodes += answering
    constants = {
        "weights": weights,
        "last": np.array([2], np.int64),
        "second": np.array([1], np.int64),
        "least": np.array(0.5, np.float32),
        "labels": np.array(labels, object),
    }
    model = _model(nodes, outputs, constants)
    about = {"labels": json.dumps(list(labels)), "name": "moods", "task": "text", "max_tokens": "16"}
    helper.set_model_props(model, {**about, "tokenizer.json": hashlib.sha256(tokenizer()).hexdigest()})
    return model.SerializeToString()


def publish_moods(workspace: Path, version: int = 1, *, familiarity: bool = False) -> Path:
    """Lays a version into `workspace`/models/moods, whole at once."""
    content = mood_model(familiarity=familiarity)
    files = {"model.onnx": content, "tokenizer.json": tokenizer()}
    digests = {name: hashlib.sha256(each).hexdigest() for name, each in files.items()}
    folder = workspace / "models" / "moods" / str(version)
    folder.mkdir(parents=True)
    for name, each in files.items():
        (folder / name).write_bytes(each)
    (folder / "manifest.json").write_text(json.dumps(manifest(content, version, name="moods", files=digests)))
    return folder


def encoder(folder: Path, *, segments: bool = True, blocks: int = 3, dynamic: bool = False) -> Path:
    """An encoder as BERT's kin are: word vectors, then blocks of two normalised sums, to tokens [N, T, 8].

    Args:
        dynamic: activations are quantised by the range of all that is in the batch.
    """
    rng = np.random.default_rng(0)
    constants: dict[str, np.ndarray] = {"words": rng.normal(size=(len(WORDS), 8)).astype(np.float32)}
    nodes = [helper.make_node("Gather", ["words", "input_ids"], ["embedded"])]
    if segments:
        constants["kinds"] = np.zeros((2, 8), np.float32)
        nodes += [
            helper.make_node("Gather", ["kinds", "token_type_ids"], ["kind"]),
            helper.make_node("Add", ["embedded", "kind"], ["both"]),
        ]
    last = "both" if segments else "embedded"
    if dynamic:
        nodes += [
            helper.make_node("DynamicQuantizeLinear", [last], ["quantised", "step", "zero"]),
            helper.make_node("DequantizeLinear", ["quantised", "step", "zero"], ["rounded"]),
        ]
        last = "rounded"
    constants |= {"gain": np.ones(8, np.float32), "offset": np.zeros(8, np.float32)}
    for block in range(2 * blocks):
        constants[f"w{block}"] = rng.normal(size=(8, 8)).astype(np.float32) / 3
        nodes += [
            helper.make_node("MatMul", [last, f"w{block}"], [f"product{block}"]),
            helper.make_node("Add", [last, f"product{block}"], [f"sum{block}"]),
            helper.make_node("LayerNormalization", [f"sum{block}", "gain", "offset"], [f"norm{block}"]),
        ]
        last = f"norm{block}"
    nodes.append(helper.make_node("Identity", [last], ["last_hidden_state"]))
    outputs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["N", "T", 8])]
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if segments else [])]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "model.onnx"
    file.write_bytes(_model(nodes, outputs, constants, names).SerializeToString())
    (folder / "tokenizer.json").write_bytes(tokenizer())
    return file


def _model(
    nodes: list[onnx.NodeProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray],
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "texts",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "T"]) for name in inputs],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model
