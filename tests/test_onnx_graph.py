"""The preprocessing that ships, against Pillow and against Keras's own; the classification behind it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from PIL import Image

from tasks.backbones.registry import BACKBONES, Backbone
from tasks.errors import ExportError
from tasks.onnx_graph import chain, check, classification, describe, preprocessing
from tasks.onnx_session import open_session
from tests.photos import photo


def run_preprocessing(backbone: Backbone, size: int, pixels: np.ndarray) -> np.ndarray:
    """Float32 [S, S, 3] of one image uint8 [H, W, 3]."""
    session = open_session(preprocessing(size, backbone.normalisation).SerializeToString())
    [planes] = session.run(["pixels"], {"image": pixels[None]})
    return np.asarray(planes)[0].transpose(1, 2, 0)


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES.keys())
def test_normalisation_is_keras_own(backbone: Backbone):
    import keras

    pixels = np.asarray(photo(7, size=(24, 24)))
    family = {
        "mobilenet_v2": keras.applications.mobilenet_v2,
        "mobilenet": keras.applications.mobilenet,
        "vgg16": keras.applications.vgg16,
        "resnet50": keras.applications.resnet50,
        "inception_v3": keras.applications.inception_v3,
        "xception": keras.applications.xception,
        "efficientnet_v2_b0": keras.applications.efficientnet_v2,
        "convnext_tiny": keras.applications.convnext,
        "embedded": keras.applications.mobilenet_v2,
    }[backbone.name]
    expected = np.asarray(family.preprocess_input(pixels.astype(np.float32)))
    found = run_preprocessing(backbone, 24, pixels)  # at its own size an image is not resized
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("size", [(640, 480), (50, 31), (24, 24), (23, 200), (1, 1)])
def test_the_resize_is_pillows_bilinear(size: tuple[int, int]):
    image = photo(8, size=size)
    found = run_preprocessing(BACKBONES["convnext_tiny"], 24, np.asarray(image))
    expected = np.asarray(image.resize((24, 24), Image.Resampling.BILINEAR), np.float32)
    # Pillow rounds to 8 bits after each direction.
    assert np.abs(found - expected).mean() < 0.5
    assert np.abs(found - expected).max() < 4


def test_classification_is_a_calibrated_softmax_with_names():
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32) * 4
    labels = ["été", "a b", "'c'"]
    session = open_session(classification(labels, 2.5).SerializeToString())
    probabilities, label = map(np.asarray, session.run(["probabilities", "label"], {"logits": logits}))
    expected = np.exp(logits / 2.5)
    expected /= expected.sum(axis=1, keepdims=True)
    assert np.allclose(probabilities, expected, atol=1e-6)
    assert [str(each) for each in label] == [labels[i] for i in expected.argmax(axis=1)]


def test_graphs_that_do_not_meet_are_refused():
    with pytest.raises(ExportError, match="don't fit end to end"):
        chain(preprocessing(8, BACKBONES["vgg16"].normalisation), classification(["a", "b"], 1.0))


def test_an_invalid_graph_is_refused():
    model = classification(["a", "b"], 1.0)
    model.graph.node[0].op_type = "NoSuchOperation"
    with pytest.raises(ExportError, match="not valid ONNX"):
        check(model)


def test_metadata_replaces_equal_keys():
    model = classification(["a", "b"], 1.0)
    describe(model, {"version": "1", "labels": ["a", "ü"]})
    describe(model, {"version": "2"})
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert found == {"version": "2", "labels": '["a", "ü"]'}
    assert isinstance(model, onnx.ModelProto)
