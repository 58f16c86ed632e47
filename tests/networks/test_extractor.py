"""Where a network can be cut, and that its two halves are the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tasks.config import POOLED
from tasks.errors import ConfigError
from tasks.modality.images.augmentation import load_policy
from tasks.networks import extractor as module
from tasks.networks.extractor import build_extractor, build_outputs, build_upper, extractor_of, feature_widths
from tasks.networks.layers import boundaries, late_layers
from tasks.networks.registry import EMBEDDED, build_network, get_backbone
from tasks.records import FeatureExtractor
from tests.runs import make_run

SIZE_PX = {"mobilenet_v2": 32, "resnet50": 32, "inception_v3": 75, "convnext_tiny": 32}


@cache
def network(name: str) -> keras.Model:
    """The whole, which no test changes."""
    return build_network(get_backbone(name), None, SIZE_PX[name])


def can_be_cut(whole: keras.Model, name: str) -> bool:
    """Whether Keras can make a model of all that lies above a layer, from that layer's output alone."""
    try:
        keras.Model(whole.get_layer(name).output, whole.output)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "name", [name if name == "mobilenet_v2" else pytest.param(name, marks=pytest.mark.slow) for name in SIZE_PX]
)
def test_the_boundaries_are_the_layers_at_which_keras_can_cut(name: str):
    whole = network(name)
    inner = [layer.name for layer in whole.layers[1:-1] if not isinstance(layer, keras.Model)]
    assert boundaries(whole) == [layer for layer in inner if can_be_cut(whole, layer)]


def test_what_a_shortcut_jumps_over_is_no_boundary():
    found = boundaries(network("mobilenet_v2"))
    assert {"block_12_add", "block_13_expand", "block_13_project_BN", "Conv_1"} <= set(found)
    assert not {"block_12_expand", "block_12_project_BN", "block_14_depthwise"} & set(found)


def test_pooling_on_top_changes_no_boundary():
    whole = network("mobilenet_v2")
    before = boundaries(whole)
    keras.layers.GlobalAveragePooling2D()(whole.output)
    assert boundaries(whole) == before


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of MobileNetV2 as Keras initialises them under a fixed seed: a real network, only not a trained one."""
    keras.utils.set_random_seed(3)
    path = tmp_path_factory.mktemp("weights") / "random.weights.h5"
    network("mobilenet_v2").save_weights(path)
    return path


@pytest.fixture
def extractor_at(random_weights: Path) -> Callable[[str], FeatureExtractor]:
    def make(boundary: str) -> FeatureExtractor:
        return FeatureExtractor(
            key="r",
            activations_key=None if boundary == POOLED else "a",
            onnx_path="",
            backbone="mobilenet_v2",
            weights=str(random_weights),
            boundary=boundary,
            image_size_px=32,
        )

    return make


@pytest.mark.parametrize("boundary", ["block_4_add", "block_13_depthwise_relu"])
def test_below_and_above_are_the_whole(extractor_at: Callable[[str], FeatureExtractor], boundary: str):
    pixels = np.random.default_rng(0).uniform(-1, 1, (3, 32, 32, 3)).astype(np.float32)
    pooled = build_extractor(extractor_at(POOLED))(pixels, training=False)
    below = build_extractor(extractor_at(boundary))(pixels, training=False)
    above: Any = build_upper(extractor_at(boundary))(below, training=False)
    both: Any = build_outputs(extractor_at(boundary))(pixels, training=False)
    np.testing.assert_allclose(above, pooled, atol=1e-5)
    np.testing.assert_allclose(both["features"], pooled, atol=1e-5)
    np.testing.assert_allclose(both["activations"], below, atol=1e-5)


def test_the_pooled_extractor_answers_features_alone(extractor_at: Callable[[str], FeatureExtractor]):
    answers: Any = build_outputs(extractor_at(POOLED))(np.zeros((1, 32, 32, 3), np.float32), training=False)
    assert answers.keys() == {"features"}


@pytest.mark.parametrize(
    ("build", "boundary"),
    [(build_extractor, "block_99_add"), (build_upper, "block_12_expand"), (build_outputs, "out_relu")],
)
def test_a_wrong_boundary_is_refused(extractor_at: Callable[[str], FeatureExtractor], build: Any, boundary: str):
    with pytest.raises(ConfigError, match=f"can't be cut at '{boundary}'.*block_12_add"):
        build(extractor_at(boundary))


def test_each_upper_part_has_weights_of_its_own(extractor_at: Callable[[str], FeatureExtractor]):
    first, second = (build_upper(extractor_at("block_12_add")) for _ in range(2))
    kernel = second.get_layer("Conv_1").get_weights()[0]
    first.get_layer("Conv_1").set_weights([kernel + 1])
    assert (second.get_layer("Conv_1").get_weights()[0] == kernel).all()


def test_the_embedded_network_can_be_cut_where_mobilenet_v2_can():
    backbone = get_backbone(EMBEDDED)
    assert boundaries(build_network(backbone, None, 32)) == boundaries(network("mobilenet_v2"))
    assert module.POOLED not in boundaries(network("mobilenet_v2"))


@pytest.mark.parametrize(
    ("name", "last_three"),
    [
        ("mobilenet_v2", ["block_16_depthwise_relu", "block_15_depthwise_relu", "block_14_depthwise_relu"]),
        pytest.param("resnet50", ["conv5_block2_out", "conv5_block1_out", "conv4_block6_out"], marks=pytest.mark.slow),
        pytest.param("inception_v3", ["mixed9", "mixed8", "mixed7"], marks=pytest.mark.slow),
        pytest.param(
            "convnext_tiny",
            [f"convnext_tiny_stage_3_block_{block}_depthwise_conv" for block in (2, 1, 0)],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_layer_of_each_late_block_is_found_in_the_graph(name: str, last_three: list[str]):
    assert late_layers(network(name))[:3] == last_three


def test_features_are_the_means_of_several_layers_side_by_side(extractor_at: Callable[[str], FeatureExtractor]):
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    several = replace(extractor_at(POOLED), layers=2, image_size_px=64)
    whole = build_network(get_backbone("mobilenet_v2"), Path(several.weights), 64)
    names = ["out_relu", "block_16_depthwise_relu", "block_15_depthwise_relu"]
    maps = keras.Model(whole.input, [whole.get_layer(name).output for name in names])(pixels, training=False)
    expected = np.concatenate([np.asarray(each).mean((1, 2)) for each in maps], axis=1)
    assert feature_widths(several) == (1280, 960, 960)
    np.testing.assert_allclose(build_extractor(several)(pixels, training=False), expected, atol=1e-5)
    named = replace(several, layers=("block_16_depthwise_relu", "block_15_depthwise_relu"), boundary="block_12_add")
    both: Any = build_outputs(named)(pixels, training=False)
    np.testing.assert_allclose(both["features"], expected, atol=1e-5)
    np.testing.assert_allclose(build_upper(named)(both["activations"], training=False), expected, atol=1e-5)


def test_of_a_number_of_blocks_those_above_the_boundary_are_taken(extractor_at: Callable[[str], FeatureExtractor]):
    assert feature_widths(replace(extractor_at("block_14_add"), layers=9)) == (1280, 960, 960)
    expanded = [*[960] * 3, *[576] * 3, *[384] * 4, *[192] * 3, *[144] * 2, 96, 32]
    assert feature_widths(replace(extractor_at(POOLED), layers=64)) == (1280, *expanded)


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        ("block_99_add", "has no layer 'block_99_add'"),
        ("block_4_add", "has 'block_4_add' below the freeze boundary block_12_add"),
        ("flat", "has no layer 'flat'"),
    ],
)
def test_a_layer_that_cant_be_pooled_names_good_ones(
    extractor_at: Callable[[str], FeatureExtractor], layer: str, why: str
):
    with pytest.raises(ConfigError, match=rf"backbone\.features: .* {why}; use a number.*block_16_depthwise_relu"):
        build_outputs(replace(extractor_at("block_12_add"), layers=(layer,)))


def test_the_key_depends_on_the_layers(tmp_path: Path):
    def keys(**backbone: Any) -> tuple[str, str | None]:
        run = make_run(tmp_path, tmp_path, config={"backbone": {"name": EMBEDDED, **backbone}})
        found = extractor_of(run, load_policy("flip", 0))
        return found.key, found.activations_key

    different = [keys(features=features) for features in ("last", 1, 4, ["block_16_depthwise_relu"])]
    assert len(set(different)) == 4
    assert keys(features=0) == keys(features="last")
    lower = keys(features=4, boundary="block_14_add")
    assert lower != keys(features=2, boundary="block_14_add")
    assert lower[0] != keys(features=4)[0]  # there are fewer blocks above it
