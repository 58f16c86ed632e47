"""Training from stored activations is training of the whole network with its lower part frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tasks.config import Finetune
from tasks.finetune.data import Split
from tasks.finetune.folded import fold
from tasks.finetune.head import TrainedHead, build_head, weights_digest
from tasks.finetune.unfrozen import join, tune_unfrozen, unfrozen_layers
from tasks.networks.extractor import build_extractor, build_upper
from tasks.networks.head_file import load_head, save_head
from tasks.networks.registry import build_network, get_backbone
from tasks.records import FeatureExtractor
from tasks.workspace import Workspace

CLASSES, SIDE_PX = 3, 32
SMALL = Finetune(hidden_units=16, unfrozen_epochs=2, unfrozen_batch_size=8, unfrozen_learning_rate=0.001, dropout=0.2)
TARGETS = np.arange(24) % CLASSES


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> FeatureExtractor:
    """Random weights, and statistics in the batch norms that are not those of fresh ones."""
    keras.utils.set_random_seed(11)
    network = build_network(get_backbone("mobilenet_v2"), None, SIDE_PX)
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    weights = tmp_path_factory.mktemp("unfrozen") / "random.weights.h5"
    network.save_weights(weights)
    return FeatureExtractor(
        key="r",
        activations_key="a",
        onnx_path="",
        backbone="mobilenet_v2",
        weights=str(weights),
        boundary="block_12_add",
        image_size_px=SIDE_PX,
    )


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.uniform(-1, 1, (24, SIDE_PX, SIDE_PX, 3)) + 0.5 * np.sin(TARGETS)[:, None, None, None]).astype(
        "float32"
    )


@pytest.fixture(scope="module")
def stored(extractor: FeatureExtractor, pixels: np.ndarray) -> Split:
    activations: Any = build_extractor(extractor)(pixels, training=False)
    return Split(features=activations.numpy().astype(np.float16).reshape(len(pixels), -1), targets=TARGETS)


def classifier() -> keras.Model:
    """Without dropout, whose draws would differ between two graphs; not zeros, which would stop the gradient."""
    features = np.abs(np.random.default_rng(2).normal(size=(50, 1280))).astype(np.float32)
    keras.utils.set_random_seed(5)
    head = build_head(features, CLASSES, SMALL.model_copy(update={"dropout": 0.0}))
    kernel, bias = head.get_layer("classifier").get_weights()
    head.get_layer("classifier").set_weights([np.random.default_rng(3).normal(size=kernel.shape), bias])
    return head


def gradients(model: keras.Model, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Of the loss on one batch in training mode, by the variable's path below the models' own names."""
    loss: Any = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    with tf.GradientTape() as tape:
        value = loss(np.eye(CLASSES, dtype=np.float32)[TARGETS], model(inputs, training=True))
    variables = model.trainable_variables
    found: Any = tape.gradient(value, [variable.value for variable in variables])
    return {"/".join(v.path.split("/")[-2:]): g.numpy() for v, g in zip(variables, found, strict=True)}


def test_the_gradient_is_that_of_the_whole_network_with_its_lower_part_frozen(
    extractor: FeatureExtractor, pixels: np.ndarray, stored: Split
):
    """The whole is built from Keras's own parts: nothing of `unfrozen_layers` takes part in it."""
    network = build_network(get_backbone("mobilenet_v2"), Path(extractor.weights), SIDE_PX)
    network.trainable = True
    names = [layer.name for layer in network.layers]
    for place, layer in enumerate(network.layers):
        above = place > names.index(extractor.boundary)
        layer.trainable = above and not isinstance(layer, keras.layers.BatchNormalization)
    pooled = keras.layers.GlobalAveragePooling2D()(network.output)
    whole = keras.Model(network.input, classifier()(pooled))
    expected = gradients(whole, pixels)

    upper = unfrozen_layers(extractor)
    activations = stored.features[:].reshape(-1, *upper.input_shape[1:]).astype(np.float32)
    found = gradients(join(upper, classifier()), activations)
    assert len(found) == 4 * 3 + 1 + 4  # three convolutions a block, Conv_1, kernels and biases of two dense layers
    assert largest_difference(found, expected) < 0.01  # of activations in float16
    folded = fold(upper)
    assert not [layer for layer in folded.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert largest_difference(gradients(join(folded, classifier()), activations), found) < 1e-3  # rounding


def largest_difference(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Of any variable's gradient, relative to its length."""
    assert found.keys() == expected.keys()
    lengths = {name: float(np.linalg.norm(each)) for name, each in expected.items()}
    return max(float(np.linalg.norm(found[name] - expected[name])) / length for name, length in lengths.items())


@pytest.mark.parametrize(
    ("name", "size_px", "boundary"), [("resnet50", 32, "conv5_block1_out"), ("inception_v3", 75, "mixed9")]
)
def test_folding_changes_no_answer_of_convolutions_with_a_bias_or_norms_without_a_scale(
    name: str, size_px: int, boundary: str
):
    network = build_network(get_backbone(name), None, size_px)
    upper = keras.Model(network.get_layer(boundary).output, network.output)
    rng = np.random.default_rng(0)
    for layer in upper.layers[1:]:
        layer.set_weights(
            [rng.uniform(0.1, 1, weight.shape) / max(1, weight[..., 0].size) for weight in layer.get_weights()]
        )
    inputs = rng.uniform(0, 1, (2, *upper.input_shape[1:])).astype(np.float32)
    expected: Any = upper(inputs, training=False)
    found: Any = fold(upper)(inputs, training=True)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))


def tune(extractor: FeatureExtractor, stored: Split, config: Finetune = SMALL) -> tuple[keras.Model, TrainedHead]:
    upper = unfrozen_layers(extractor)
    return upper, tune_unfrozen(upper, classifier(), stored, stored, config)


@pytest.fixture(scope="module")
def tuned(extractor: FeatureExtractor, stored: Split) -> tuple[keras.Model, TrainedHead]:
    return tune(extractor, stored)


def test_training_moves_the_upper_layers_and_no_batch_norm(
    extractor: FeatureExtractor, stored: Split, pixels: np.ndarray, tuned: tuple[keras.Model, TrainedHead]
):
    upper, trained = tuned
    before = build_upper(extractor)
    for layer in before.layers[1:]:
        weights = zip(layer.get_weights(), upper.get_layer(layer.name).get_weights(), strict=True)
        same = [bool((old == new).all()) for old, new in weights]
        frozen = isinstance(layer, keras.layers.BatchNormalization)
        assert all(same) if frozen else not any(same), layer.name
    again: Any = build_extractor(extractor)(
        pixels, training=False
    )  # the cached feature extractor is the one that made the rows
    assert (again.numpy().astype(np.float16).reshape(len(pixels), -1) == stored.features[:]).all()
    assert trained.history[-1]["loss"] < trained.history[0]["loss"]
    assert trained.history[0].keys() >= {"loss", "accuracy", "val_loss", "val_accuracy"}


def test_a_saved_head_answers_alike(stored: Split, tuned: tuple[keras.Model, TrainedHead], tmp_path: Path):
    model = tuned[1].model
    save_head(Workspace(str(tmp_path)), "head.keras", model)
    inputs = stored.features[:4].reshape(-1, *model.input_shape[1:]).astype(np.float32)
    loaded: Any = load_head(Workspace(str(tmp_path)), "head.keras")(inputs, training=False)
    expected: Any = model(inputs, training=False)
    assert expected.shape == (4, CLASSES)
    np.testing.assert_allclose(loaded, expected, atol=1e-5)


def test_another_seed_gives_other_weights(
    extractor: FeatureExtractor, stored: Split, tuned: tuple[keras.Model, TrainedHead]
):
    """That the same seed gives the same ones, also in another process: test_reproducible."""
    other = SMALL.model_copy(update={"seed": 18})
    assert weights_digest(tune(extractor, stored, other)[1].model) != weights_digest(tuned[1].model)
