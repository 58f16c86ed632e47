"""Every backbone: its weights load from a file, it can be cut where it says, and what is exported answers as Keras."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.config import POOLED
from tasks.errors import ConfigError, WeightsError
from tasks.extract.export import export_extractor
from tasks.networks.extractor import build_extractor, build_outputs
from tasks.networks.layers import boundaries
from tasks.networks.onnx_graph import preprocessing
from tasks.networks.onnx_session import open_session
from tasks.networks.registry import BACKBONES, EMBEDDED, Backbone, build_network, get_backbone, weights_path
from tasks.records import FeatureExtractor

# The smallest that Keras builds; their exports take seconds, not minutes.
# At 32 px the late maps of ConvNeXt are one pixel wide, of which Keras and ONNX Runtime differ by two percent.
SIZE_PX = {"inception_v3": 75, "xception": 71, "convnext_tiny": 128}
DEFAULT = "mobilenet_v2"
KERAS = [
    pytest.param(backbone, id=backbone.name, marks=[] if backbone.name == DEFAULT else pytest.mark.slow)
    for backbone in BACKBONES.values()
    if backbone.name != EMBEDDED
]


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Each test's networks go with it: all of them together are 10 GB, which the allocator of glibc keeps unasked."""
    import keras

    yield
    build_extractor.cache_clear()
    keras.backend.clear_session()
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def saved(backbone: Backbone, folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A file of random weights, and those weights by their place."""
    import keras

    keras.utils.set_random_seed(7)
    network = build_network(backbone, None, SIZE_PX.get(backbone.name, 32))
    path = folder / f"{backbone.name}.weights.h5"
    network.save_weights(path)
    return path, {str(place): weight for place, weight in enumerate(network.get_weights())}


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("backbone", KERAS)
def test_weights_load_and_the_export_answers_as_keras_does(backbone: Backbone, tmp_path: Path):
    path, expected = saved(backbone, tmp_path)
    size = SIZE_PX.get(backbone.name, 32)
    network = build_network(backbone, weights_path(backbone, str(path), size), size)
    for place, weight in enumerate(network.get_weights()):
        assert (
            weight.ravel() == expected[str(place)].ravel()
        ).all()  # a depthwise kernel has its axes in another order
    assert (backbone.boundary or POOLED) in [POOLED, *boundaries(network)]

    extractor = FeatureExtractor(
        key=str(path),  # networks are cached by it
        activations_key="a" if backbone.boundary else None,
        onnx_path="",
        backbone=backbone.name,
        weights=str(path),
        boundary=backbone.boundary or POOLED,
        image_size_px=size,
        layers=4,
    )
    # Noise: of a smooth picture, random weights make maps that are nearly constant, of which a norm amplifies rounding.
    image = np.random.default_rng(3).integers(0, 256, (1, 80, 90, 3), np.uint8)
    graph = preprocessing(size, backbone.normalisation).SerializeToString()
    pixels = np.asarray(open_session(graph).run(["pixels"], {"image": image})[0]).transpose(0, 2, 3, 1)
    keras_answers: Any = build_outputs(extractor)(pixels, training=False)
    names = list(keras_answers)
    answers = open_session(export_extractor(extractor).SerializeToString()).run(names, {"image": image})
    for name, found in zip(names, answers, strict=True):
        wanted = np.asarray(keras_answers[name])
        assert np.asarray(found).shape == wanted.shape
        assert np.isfinite(wanted).all()
        assert wanted.std() > 0
        assert np.abs(np.asarray(found) - wanted).max() < 1e-4 * np.abs(wanted).max(), name


def test_another_networks_weights_are_refused(tmp_path: Path):
    path, _ = saved(get_backbone("mobilenet"), tmp_path)
    with pytest.raises(WeightsError, match=r"mobilenet\.weights\.h5 don't fit mobilenet_v2 without its top"):
        build_network(get_backbone("mobilenet_v2"), path, 32)


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all", b"\x89HDF\r\n\x1a\n and then nothing"])
def test_a_damaged_weights_file_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "damaged.weights.h5"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="don't fit mobilenet_v2"):
        build_network(get_backbone("mobilenet_v2"), path, 32)


def test_a_missing_weights_file_and_a_misspelt_backbone_say_what_there_is(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"no weights file at .*absent\.h5; --weights takes 'imagenet' or the path"):
        weights_path(get_backbone("xception"), str(tmp_path / "absent.h5"), 299)
    with pytest.raises(ConfigError, match="unknown backbone 'resnet_50'; the nearest is 'resnet50'"):
        get_backbone("resnet_50")
