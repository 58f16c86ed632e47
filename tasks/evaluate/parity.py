"""Parity: does model.onnx predict what Keras predicts for images of the test split?

Keras's own features of an image never change under one key, so they are stored (float32, beside the extractor's). They
don't depend on the head: they are made while it is trained. Of a large split a sample is enough: what a conversion gets
wrong is wrong for every image, by more than the gate allows or less. Once a workspace has the sample, a retrain builds
no Keras network for it. (The sample is the first images in the order of digests, which is a random one.)

An 8-bit feature extractor, or one given as an ONNX file, has no Keras form. There the reference is the Keras
head on the features of the extractor's own file: the gate then shows that nothing was lost behind the extractor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.modality.images.content import decode
from tasks.modality.items import read_checked
from tasks.modality.texts.tokens import Tokens
from tasks.networks import keras_process
from tasks.networks.extractor import build_extractor
from tasks.networks.head_file import load_head
from tasks.networks.onnx_graph import preprocessing
from tasks.networks.onnx_session import available_cores, open_session
from tasks.networks.registry import get_backbone
from tasks.networks.text_batches import run_texts
from tasks.records import FeatureExtractor, Head, Run, Snapshot
from tasks.storage.feature_store import append_rows, feature_store, load_features, stored_views
from tasks.storage.snapshots import read_snapshot

if TYPE_CHECKING:
    import keras

BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Parity:
    """`label_agreement` is a share of images; `max_difference` the largest one of any probability."""

    n: int
    label_agreement: float
    max_difference: float


def make_reference(run: Run, snapshot: Snapshot, extractor: FeatureExtractor, images: int) -> int:
    """Stores reference features of test images until so many have some, or all have; returns the number of new ones."""
    table = read_snapshot(run.workspace, snapshot.id, ["sha256", "uri", "split"])
    test = table[table["split"] == "test"].sort_values("sha256")
    known = _known(run, extractor, test["sha256"].tolist())
    wanted = max(0, images - int(known.sum()))
    missing = list(test.loc[~known, ["sha256", "uri"]].head(wanted).itertuples(index=False, name=None))
    if missing:
        features = _keras_features if extractor.in_keras else _extractor_features
        rows = np.concatenate(list(features(run, extractor, missing)))
        append_rows(run.workspace, _key(extractor), [sha256 for sha256, _ in missing], [0] * len(missing), rows)
    return len(missing)


def prepare_reference(run: Run, extractor: FeatureExtractor, images: int) -> None:
    """Loads what `make_reference` will probably need in this process for an extractor that Keras can compute."""
    parts = feature_store(run.workspace, _key(extractor)).read(["sha256"])
    if len({sha256 for part in parts for sha256 in part["sha256"].to_pylist()}) < images:
        build_extractor(extractor)


def measure_parity(run: Run, head: Head, sha256s: Sequence[str], probabilities: np.ndarray) -> Parity | None:
    """Compares `probabilities` float32 [N, C], of model.onnx, with the reference's on those images that have one; None
    where none has."""
    from scipy.special import softmax

    known = _known(run, head.features.extractor, sha256s)
    compared, found = np.array(sha256s)[known].tolist(), probabilities[known]
    if not compared:
        return None
    expected = softmax(keras_process.call(_keras_logits, run, head, compared) / head.temperature, axis=1)
    return Parity(
        n=len(compared),
        label_agreement=float((expected.argmax(axis=1) == found.argmax(axis=1)).mean()),
        max_difference=float(np.abs(expected - found).max()),
    )


def _known(run: Run, extractor: FeatureExtractor, sha256s: Sequence[str]) -> np.ndarray:
    """Which images have reference features, bool [N]."""
    return stored_views(run.workspace, _key(extractor), sha256s, 1)[:, 0]


def _key(extractor: FeatureExtractor) -> str:
    return f"{extractor.head_key}-keras"


def _extractor_features(
    run: Run, extractor: FeatureExtractor, images: Sequence[tuple[str, str]]
) -> Iterator[np.ndarray]:
    """Float32 [1, D] of each (sha256, uri), by the extractor's file."""
    session = open_session(run.workspace.local_file(extractor.onnx_path))
    if extractor.task == "text":
        tokens = Tokens(run.workspace.read_bytes(extractor.tokenizer_path), extractor.max_tokens)
        read = [tokens.read(read_checked(uri, sha256)) for sha256, uri in images]
        yield np.stack([row for [row] in run_texts(session, [extractor.output], read)])
        return

    def answer(image: tuple[str, str]) -> np.ndarray:
        sha256, uri = image
        pixels = decode(read_checked(uri, sha256), run.config.ingest.max_pixels)
        return np.asarray(session.run([extractor.output], {"image": pixels[None]})[0]).reshape(1, -1)

    with ThreadPoolExecutor(available_cores()) as pool:
        yield from pool.map(answer, images)


def _keras_features(run: Run, extractor: FeatureExtractor, images: Sequence[tuple[str, str]]) -> Iterator[np.ndarray]:
    """Float32 [B, D] for each batch of (sha256, uri), by the Keras feature extractor."""
    import keras  # noqa: F401 - before TensorFlow, as everywhere: see tasks/networks/keras_process.py
    import tensorflow as tf

    model = build_extractor(extractor)
    shape = (None, extractor.image_size_px, extractor.image_size_px, 3)
    # Tracing the network takes longer than running it once, layer by layer.
    forward = partial(model, training=False) if len(images) <= BATCH else _frozen(model, shape)
    graph = preprocessing(extractor.image_size_px, get_backbone(extractor.backbone).normalisation)
    session = open_session(graph.SerializeToString())

    def pixels_of(image: tuple[str, str]) -> np.ndarray:
        sha256, uri = image
        [planes] = session.run(
            ["pixels"], {"image": decode(read_checked(uri, sha256), run.config.ingest.max_pixels)[None]}
        )
        return np.asarray(planes).transpose(0, 2, 3, 1)

    with ThreadPoolExecutor(available_cores()) as pool:
        for start in range(0, len(images), BATCH):
            pixels = np.concatenate(list(pool.map(pixels_of, images[start : start + BATCH])))
            features = np.asarray(forward(tf.constant(pixels)))
            yield features.reshape(len(features), -1)


def _frozen(model: keras.Model, shape: tuple[int | None, ...]) -> Callable[[Any], Any]:
    """The network as one TensorFlow graph with its weights as constants: two thirds of `model.predict`'s time (13
    against 19 core-ms an image, MobileNetV2 at 224 px), for batch normalisation can be folded then."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    # One signature for full and partial batches, so that the network is traced once.
    call = tf.function(lambda pixels: model(pixels, training=False), input_signature=[tf.TensorSpec(shape, tf.float32)])
    frozen = convert_variables_to_constants_v2(call.get_concrete_function())
    return lambda pixels: frozen(pixels)[0]


def _keras_logits(run: Run, head: Head, sha256s: Sequence[str]) -> np.ndarray:
    features = load_features(run.workspace, _key(head.features.extractor), sha256s, 0, np.float32)
    model = load_head(run.workspace, head.keras_path)
    shaped = features.reshape(-1, *model.inputs[0].shape[1:])
    return np.concatenate([np.asarray(model(part, training=False)) for part in _batches(shaped)])


def _batches(rows: np.ndarray, size: int = 1024) -> Iterator[np.ndarray]:
    yield from (rows[start : start + size] for start in range(0, len(rows), size))
