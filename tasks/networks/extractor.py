"""The feature extractor: its identity, and its Keras form below and above the freeze boundary."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.config import EMBEDDED_TEXT, POOLED, Backbone, Config, is_onnx_file
from tasks.errors import ConfigError
from tasks.modality.images.augmentation import Policy
from tasks.networks.boundaries import check_boundary
from tasks.networks.layers import feature_layers
from tasks.networks.onnx_description import read_description, read_text_description
from tasks.networks.registry import build_network, get_backbone, weights_digest, weights_path
from tasks.networks.text_backbone import encoder_file, read_tokenizer
from tasks.records import FeatureExtractor, Run

if TYPE_CHECKING:
    import keras

# Part of every key: raise it when the preprocessing, the decoder or the layout of rows changes what a row holds.
KEY_VERSION = 3
FILE_KEY_VERSION = 5  # of ONNX files: raise it when other late blocks are found in a graph, too


def extractor_of(run: Run, policy: Policy) -> FeatureExtractor:
    """Names the float32 feature extractor that a run's configuration asks for, without building it (and without
    TensorFlow).

    The key is the digest of everything that a feature row depends on beside the image: the weights, the layers up
    to the boundary, the preprocessing and the augmentation policy. It is not the digest of ONNX bytes, which differ
    between identical exports.
    """
    config = run.config.backbone
    if run.config.task == "text":
        return _text_extractor(run.config)
    if is_onnx_file(config.name):
        return _file_extractor(config, policy)
    backbone = get_backbone(config.name)
    size = config.image_size_px or backbone.image_size_px
    weights = weights_path(backbone, config.weights, size)
    identity = {
        "recipe_version": KEY_VERSION,
        "backbone": backbone.name,
        "weights_sha256": weights_digest(weights),
        "image_size_px": size,
        "normalisation": asdict(backbone.normalisation),
        "augmentation": policy.digest(),
    }
    layers = _layers(config.features)
    # Of a number of blocks, those above the boundary are taken.
    several = {"features": layers, "above": config.boundary if isinstance(layers, int) else ""} if layers else {}
    identity |= several
    key = key_digest({**identity, "boundary": POOLED})
    lower = None if config.boundary == POOLED else key_digest({**identity, "boundary": config.boundary})
    return FeatureExtractor(
        key=key,
        activations_key=lower,
        onnx_path=f"artifacts/extractor/{lower or key}/extractor.onnx",
        backbone=backbone.name,
        weights=str(weights),
        boundary=config.boundary,
        image_size_px=size,
        layers=layers,
    )


def key_digest(identity: dict) -> str:
    """16 hex digits that name everything in `identity`."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)  # several stages of a run ask for it; `--auto` goes from one to the next
def build_extractor(extractor: FeatureExtractor) -> keras.Model:
    """The feature extractor in Keras: pixels float32 [N, S, S, 3], normalised, to the boundary's output ([N, D]
    pooled).

    Raises:
        ConfigError: the backbone can't be cut there.
        WeightsError: the weights don't fit.
    """
    import keras

    network = _network(extractor)
    output = _pooled(network, extractor) if extractor.boundary == POOLED else _boundary_layer(network, extractor).output
    return keras.Model(network.input, output, name=f"{extractor.backbone}_trunk")


def build_upper(extractor: FeatureExtractor) -> keras.Model:
    """The layers above a lower boundary, as they were pre-trained: activations [N, h, w, C] to features [N, D].

    Each call builds layers of its own, so they can be trained without touching another's.

    Raises:
        ConfigError, WeightsError: as `build_extractor`.
    """
    import keras

    network = _network(extractor)
    below = _boundary_layer(network, extractor).output
    return keras.Model(below, _pooled(network, extractor), name=f"{extractor.backbone}_upper")


def build_outputs(extractor: FeatureExtractor) -> keras.Model:
    """Pixels to all that the exported feature extractor answers, by name: `features` and, at a lower boundary,
    `activations`."""
    import keras

    network = _network(extractor)
    outputs = {"features": _pooled(network, extractor)}
    if extractor.boundary != POOLED:
        outputs["activations"] = _boundary_layer(network, extractor).output
    return keras.Model(network.input, outputs, name=f"{extractor.backbone}_outputs")


def _file_extractor(config: Backbone, policy: Policy) -> FeatureExtractor:
    """The extractor of an ONNX file. Raises ConfigError where what is asked for needs one of Keras's networks."""
    file = Path(config.name).expanduser()
    description = read_description(file)
    if config.boundary != POOLED or config.weights != "default":
        key = "weights" if config.weights != "default" else "boundary"
        raise ConfigError(f"backbone.{key} is for Keras's networks; of {file} only the classifier is trained")
    if config.image_size_px not in (0, description.image_size_px):
        raise ConfigError(
            f"{file} takes images of {description.image_size_px} pixels: leave backbone.image_size_px out"
        )
    layers = _layers(config.features)
    identity = {
        "recipe_version": FILE_KEY_VERSION,
        "network_sha256": weights_digest(file),
        "description": description.model_dump(exclude={"licence", "source"}),
        "augmentation": policy.digest(),
        "features": layers,
    }
    key = key_digest(identity)
    return FeatureExtractor(
        key=key,
        onnx_path=f"artifacts/extractor/{key}/extractor.onnx",
        backbone=file.name,
        weights=str(file),
        boundary=POOLED,
        image_size_px=description.image_size_px,
        layers=layers,
    )


def _text_extractor(config: Config) -> FeatureExtractor:
    """The extractor of an encoder of texts. Raises ConfigError where what is asked for needs a network of images."""
    asked = {
        "backbone.weights": config.backbone.weights != "default",
        "backbone.boundary": config.backbone.boundary != POOLED,
        "backbone.image_size_px": config.backbone.image_size_px > 0,
        "backbone.precision": config.backbone.precision != "fp32",
        "augment.views": config.augment.views not in ("auto", 0),
        "export.variants": bool(config.export.variants),
    }
    if wrong := next((key for key, is_asked in asked.items() if is_asked), None):
        raise ConfigError(f"{wrong} is for images; of an encoder of texts, as its file is, the classifier is trained")
    file = encoder_file(config.backbone.name)
    if not file.is_file():
        raise ConfigError(f"no ONNX file at {file}")
    description, layers = read_text_description(file), _layers(config.backbone.features)
    identity = {
        "recipe_version": KEY_VERSION,
        "network_sha256": weights_digest(file),
        "tokenizer_sha256": hashlib.sha256(read_tokenizer(file, description)).hexdigest(),
        "description": description.model_dump(exclude={"licence", "source", "tokenizer"}),
        "features": layers,
    }
    key = key_digest(identity)
    return FeatureExtractor(
        key=key,
        onnx_path=f"artifacts/extractor/{key}/extractor.onnx",
        backbone=config.backbone.name if config.backbone.name == EMBEDDED_TEXT else file.name,
        weights=str(file),
        boundary=POOLED,
        image_size_px=0,
        layers=layers,
        task="text",
        max_tokens=description.max_tokens,
    )


def feature_widths(extractor: FeatureExtractor) -> tuple[int, ...]:
    """The number of features of each layer, in their order."""
    return tuple(int(output.shape[-1]) for output in _maps(_network(extractor), extractor).values())


def _layers(features: int | str | list[str]) -> int | tuple[str, ...]:
    if isinstance(features, int):
        return features
    return 0 if isinstance(features, str) else tuple(features)


def _network(extractor: FeatureExtractor) -> keras.Model:
    return build_network(get_backbone(extractor.backbone), Path(extractor.weights), extractor.image_size_px)


def _pooled(network: keras.Model, extractor: FeatureExtractor):
    """Features [N, D]: the means over the last map and over those of the other layers, side by side."""
    import keras

    means = [
        keras.layers.GlobalAveragePooling2D(name=name)(output) for name, output in _maps(network, extractor).items()
    ]
    return keras.layers.Concatenate(name="features")(means) if len(means) > 1 else means[0]


def _maps(network: keras.Model, extractor: FeatureExtractor) -> dict[str, Any]:
    """The maps [N, h, w, C] that are pooled, the last one first, by the name of their mean."""
    boundary = None if extractor.boundary == POOLED else _boundary_layer(network, extractor).name
    names = feature_layers(network, extractor.layers, boundary)
    return {POOLED: network.output} | {f"{name}_{POOLED}": network.get_layer(name).output for name in names}


def _boundary_layer(network: keras.Model, extractor: FeatureExtractor):
    check_boundary(extractor.backbone, extractor.boundary)
    return network.get_layer(extractor.boundary)
