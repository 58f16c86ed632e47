"""The frozen trunk: its identity and its Keras form."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.artifacts import Run, TrunkRef
from tasks.augment.policy import Policy
from tasks.backbones.registry import POOLED, Backbone, build_network, get_backbone, weights_digest, weights_path
from tasks.errors import ConfigError

if TYPE_CHECKING:
    import keras

# Part of every recipe: raise it when the preprocessing, the decoder or the layout of rows changes what a row holds.
RECIPE_VERSION = 2


def trunk_of(run: Run, policy: Policy) -> TrunkRef:
    """Names the trunk that a run's configuration asks for, without building it (and without TensorFlow).

    The recipe is the digest of everything that a feature row depends on beside the image: the weights, the layers up
    to the boundary, the preprocessing and the augmentation policy. It is not the digest of ONNX bytes, which differ
    between identical exports.
    """
    config = run.config.backbone
    backbone = get_backbone(config.name)
    size = config.image_size_px or backbone.image_size_px
    weights = weights_path(backbone, config.weights, size)
    identity = {
        "recipe_version": RECIPE_VERSION,
        "backbone": backbone.name,
        "weights_sha256": weights_digest(weights),
        "boundary": config.boundary,
        "image_size_px": size,
        "normalisation": asdict(backbone.normalisation),
        "augmentation": policy.digest(),
    }
    recipe = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return TrunkRef(
        recipe=recipe,
        onnx_path=f"trunks/{recipe}.onnx",
        backbone=backbone.name,
        weights=str(weights),
        boundary=config.boundary,
        image_size_px=size,
    )


@cache
def build_trunk(trunk: TrunkRef) -> keras.Model:
    """The same trunk in Keras: pixels float32 [N, S, S, 3], normalised, to features.

    Raises:
        ConfigError: the backbone has no such boundary.
        WeightsError: the weights don't fit.
    """
    import keras

    backbone: Backbone = get_backbone(trunk.backbone)
    network = build_network(backbone, Path(trunk.weights), trunk.image_size_px)
    if trunk.boundary == POOLED:
        features = keras.layers.GlobalAveragePooling2D(name=POOLED)(network.output)
    else:
        features = _layer(network, trunk.boundary).output
    return keras.Model(network.input, features, name=f"{trunk.backbone}_trunk")


def _layer(network: keras.Model, name: str):
    names = [layer.name for layer in network.layers]
    if name not in names:
        shown = ", ".join(part for part in names if part.endswith(("_add", "_out", "_pool", "_concat"))) or names[-1]
        raise ConfigError(
            f"backbone.boundary: {network.name} has no layer {name!r}; use {POOLED}, or one such as {shown}"
        )
    return network.get_layer(name)
