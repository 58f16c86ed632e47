"""The preprocessing that ships, against Pillow and against Keras's own; the classification behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tasks.errors import ExportError
from tasks.networks.onnx_graph import chain, check, classification, describe, preprocessing
from tasks.networks.onnx_session import open_session
from tasks.networks.registry import BACKBONES, Backbone
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


# Shrunk a little, a lot and by non-integers; enlarged; one pixel; a strip; a phone's photograph.
SIZES = [(640, 480), (50, 31), (24, 24), (23, 200), (100, 100), (1, 1), (3000, 2), (4000, 3000)]


def pillow_bilinear(pixels: np.ndarray, size: int) -> np.ndarray:
    """Float32 [S, S, 3] of uint8 [H, W, 3], in floats so that Pillow does not round between its two passes."""
    channels = [Image.fromarray(pixels[..., channel].astype(np.float32)) for channel in range(3)]
    return np.stack([np.asarray(each.resize((size, size), Image.Resampling.BILINEAR)) for each in channels], axis=-1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [24, 224])  # of 24 the second block is cut off, 224 is 14 whole ones
def test_the_resize_is_pillows_bilinear(size: tuple[int, int], side: int):
    pixels = np.asarray(photo(8, size=size))
    found = run_preprocessing(BACKBONES["convnext_tiny"], side, pixels)
    assert np.abs(found - pillow_bilinear(pixels, side)).max() < 0.01  # of 255 levels


def test_a_batch_is_resized_image_by_image():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 57, 40, 3), dtype=np.uint8)
    session = open_session(preprocessing(32, BACKBONES["convnext_tiny"].normalisation).SerializeToString())
    [planes] = session.run(["pixels"], {"image": images})
    for image, found in zip(images, np.asarray(planes).transpose(0, 2, 3, 1), strict=True):
        assert np.abs(found - pillow_bilinear(image, 32)).max() < 0.01


@pytest.mark.parametrize("size", SIZES)
def test_openvino_computes_the_same_pixels(size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # it writes there when it is imported
    openvino = pytest.importorskip("openvino", reason="there is no OpenVINO here to compare with")
    graph = preprocessing(40, BACKBONES["mobilenet_v2"].normalisation).SerializeToString()
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # not bfloat16, which it prefers where the processor has it
    compiled = core.compile_model(core.read_model(model=graph), "CPU", exact)
    pixels = np.asarray(photo(8, size=size))[None]
    [expected] = open_session(graph).run(["pixels"], {"image": pixels})
    assert np.abs(compiled(pixels)[0] - np.asarray(expected)).max() < 1e-4  # of a range from -1 to 1


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
