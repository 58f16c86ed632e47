"""Makes the encoder of texts that comes with headstart: word vectors, distilled from a sentence encoder.

    uv run python -m deploy.embedded_backbone.words FOLDER

FOLDER holds model.onnx and tokenizer.json of all-MiniLM-L6-v2 (Apache-2.0), a distilled BERT. Each token of its
vocabulary is read by itself, as a text; the means of what the encoder gives are reduced to their principal components,
weighted so that frequent words count less, and rounded to 8 bits. A text is then the mean of its tokens' vectors.
(Tulkens and van Dongen 2024, "Model2Vec"; the weights: Arora et al. 2017, "A Simple but Tough-to-Beat Baseline for
Sentence Embeddings", with frequencies by Zipf's law, since the vocabulary is sorted by frequency.)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tasks.modality.feeds import INPUTS
from tasks.modality.texts.tokens import feed_of
from tasks.networks.onnx_description import TextDescription
from tasks.networks.onnx_graph import IR_VERSION, OPSET, check
from tasks.networks.onnx_session import open_session
from tasks.networks.text_backbone import EMBEDDED, build_text_extractor

DIMENSIONS = 80  # 30,522 x 80 bytes: with its tokenizer 2.9 MB
SMOOTHING = 1e-3  # of the weights: a / (a + frequency)
BATCH = 256
FIRST, LAST = 101, 102  # the ids of [CLS] and [SEP] in BERT's vocabulary


def main(folder: Path) -> None:
    EMBEDDED.parent.mkdir(exist_ok=True)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    size = len(tokenizer["model"]["vocab"])
    vectors = reduced(read_words(folder, size))
    EMBEDDED.write_bytes(graph(vectors).SerializeToString())
    # Words alone: no marks of beginning and end, and nothing is cut or filled up.
    tokenizer |= {"post_processor": None, "truncation": None, "padding": None}
    text = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
    EMBEDDED.with_name("tokenizer.json").write_text(text, encoding="utf-8")


def read_words(folder: Path, size: int) -> np.ndarray:
    """What the encoder gives for each token of the vocabulary alone, float32 [V, D]."""
    model, _ = build_text_extractor(folder / "model.onnx", TextDescription(), 0)
    session = open_session(model.SerializeToString())
    rows = []
    for start in range(0, size, BATCH):
        texts = [np.array([FIRST, token, LAST]) for token in range(start, min(start + BATCH, size))]
        rows.append(np.asarray(session.run(["features"], feed_of(texts))[0]))
    return np.concatenate(rows)


def reduced(words: np.ndarray) -> np.ndarray:
    """The principal components of words' rows, [V, D] to float32 [V, DIMENSIONS], weighted by frequency."""
    centred = words - words.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    vectors = centred @ axes[:, ::-1][:, :DIMENSIONS]
    frequency = 1 / np.arange(2, len(words) + 2)
    frequency /= frequency.sum()
    return (vectors * (SMOOTHING / (SMOOTHING + frequency))[:, None]).astype(np.float32)


def graph(vectors: np.ndarray) -> onnx.ModelProto:
    """From `input_ids` and `attention_mask` int64 [N, T] to `tokens` float32 [N, T, D], a vector for each token."""
    scale = np.abs(vectors).max(axis=0) / 127
    constants = {"vectors": np.rint(vectors / scale).astype(np.int8), "scale": scale.astype(np.float32)}
    nodes = [
        helper.make_node("Gather", ["vectors", "input_ids"], ["rounded"], axis=0),
        helper.make_node("Cast", ["rounded"], ["whole"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["whole", "scale"], ["tokens"]),
    ]
    made = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "T"]) for name in INPUTS["text"]],
        [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["N", "T", vectors.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return check(
        helper.make_model(
            made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="headstart"
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
