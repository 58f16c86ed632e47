"""The feature extractor: its identity, and its Keras form below and above the freeze boundary."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.config import POOLED
from tasks.modality.augmentation import Policy
from tasks.networks.boundaries import check_boundary
from tasks.networks.registry import build_network, get_backbone, weights_digest, weights_path
from tasks.records import FeatureExtractor, Run

if TYPE_CHECKING:
    import keras

# Part of every key: raise it when the preprocessing, the decoder or the layout of rows changes what a row holds.
KEY_VERSION = 3


def extractor_of(run: Run, policy: Policy) -> FeatureExtractor:
    """Names the float32 feature extractor that a run's configuration asks for, without building it (and without
    TensorFlow).

    The key is the digest of everything that a feature row depends on beside the image: the weights, the layers up
    to the boundary, the preprocessing and the augmentation policy. It is not the digest of ONNX bytes, which differ
    between identical exports.
    """
    config = run.config.backbone
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
    output = _pooled(network) if extractor.boundary == POOLED else _boundary_layer(network, extractor).output
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
    return keras.Model(below, _pooled(network), name=f"{extractor.backbone}_upper")


def build_outputs(extractor: FeatureExtractor) -> keras.Model:
    """Pixels to all that the exported feature extractor answers, by name: `features` and, at a lower boundary,
    `activations`."""
    import keras

    network = _network(extractor)
    outputs = {"features": _pooled(network)}
    if extractor.boundary != POOLED:
        outputs["activations"] = _boundary_layer(network, extractor).output
    return keras.Model(network.input, outputs, name=f"{extractor.backbone}_outputs")


def boundaries(network: keras.Model) -> list[str]:
    """The layers, from below, at which a network can be cut: all that lies above depends on their output alone."""
    import keras

    # Operations are layers and, in some networks, bare additions between them.
    consumers: dict[str, set[str]] = {operation.name: set() for operation in network.operations}
    for nodes in network._nodes_by_depth.values():  # the network's own: what is built on top of it is not part of it
        for node in nodes:
            for parent in node.parent_nodes:
                consumers[parent.operation.name].add(node.operation.name)
    found: list[str] = []
    done: set[str] = set()
    alive: set[str] = set()  # operations whose output is needed above
    for operation in network.operations:  # in topological order
        done.add(operation.name)
        alive = {name for name in alive | {operation.name} if not consumers[name] <= done}
        # The output of a model within the network is that of its own graph, not of this one.
        if alive == {operation.name} and isinstance(operation, keras.Layer) and not isinstance(operation, keras.Model):
            found.append(operation.name)
    return found[1:]  # the first is the input itself


def _network(extractor: FeatureExtractor) -> keras.Model:
    return build_network(get_backbone(extractor.backbone), Path(extractor.weights), extractor.image_size_px)


def _pooled(network: keras.Model):
    import keras

    return keras.layers.GlobalAveragePooling2D(name=POOLED)(network.output)


def _boundary_layer(network: keras.Model, extractor: FeatureExtractor):
    check_boundary(extractor.backbone, extractor.boundary)
    return network.get_layer(extractor.boundary)
