"""Which backbones there are, how each wants its pixels, and where its weights are.

Nothing here imports TensorFlow until a network is built: listing the backbones, and finding and digesting a weights
file, are quick.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import ConfigError, WeightsError
from tasks.networks import embedded
from tasks.networks.normalisation import Normalisation

if TYPE_CHECKING:
    import keras

EMBEDDED = "embedded"

TO_PLUS_MINUS_ONE = Normalisation(scale=(1 / 127.5, 1 / 127.5, 1 / 127.5), bias=(-1.0, -1.0, -1.0))
# The mean of ImageNet in BGR order, as Caffe's networks were trained.
MINUS_CAFFE_MEAN = Normalisation(bias=(-103.939, -116.779, -123.68), reverse_channels=True)
AS_IT_IS = Normalisation()  # the network rescales by itself


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One architecture of `keras.applications`, or the embedded one.

    `weights_file` is the name under which Keras keeps the ImageNet weights (no top) in KERAS_HOME/models. `boundary`
    is the lower freeze boundary that `--auto` tries, beneath the last stage of blocks; empty where there is none: of
    ConvNeXt's blocks each ends in a bare addition, at which it can't be cut.
    """

    name: str
    keras_class: str
    image_size_px: int
    normalisation: Normalisation
    weights_file: str
    boundary: str
    summary: str


BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone(
            name="mobilenet_v2",
            keras_class="MobileNetV2",
            image_size_px=224,
            normalisation=TO_PLUS_MINUS_ONE,
            weights_file="mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{size}_no_top.h5",
            boundary="block_12_add",
            summary="2.3 M parameters; the default",
        ),
        Backbone(
            name="mobilenet",
            keras_class="MobileNet",
            image_size_px=224,
            normalisation=TO_PLUS_MINUS_ONE,
            weights_file="mobilenet_1_0_{size}_tf_no_top.h5",
            boundary="conv_pw_11_relu",
            summary="3.2 M parameters",
        ),
        Backbone(
            name="vgg16",
            keras_class="VGG16",
            image_size_px=224,
            normalisation=MINUS_CAFFE_MEAN,
            weights_file="vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
            boundary="block4_pool",
            summary="14.7 M parameters, slow",
        ),
        Backbone(
            name="resnet50",
            keras_class="ResNet50",
            image_size_px=224,
            normalisation=MINUS_CAFFE_MEAN,
            weights_file="resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
            boundary="conv4_block6_out",
            summary="23.6 M parameters",
        ),
        Backbone(
            name="inception_v3",
            keras_class="InceptionV3",
            image_size_px=299,
            normalisation=TO_PLUS_MINUS_ONE,
            weights_file="inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
            boundary="mixed7",
            summary="21.8 M parameters",
        ),
        Backbone(
            name="xception",
            keras_class="Xception",
            image_size_px=299,
            normalisation=TO_PLUS_MINUS_ONE,
            weights_file="xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
            boundary="block14_sepconv1_act",
            summary="20.9 M parameters",
        ),
        Backbone(
            name="efficientnet_v2_b0",
            keras_class="EfficientNetV2B0",
            image_size_px=224,
            normalisation=AS_IT_IS,
            weights_file="efficientnetv2-b0_notop.h5",
            boundary="block5e_add",
            summary="5.9 M parameters",
        ),
        Backbone(
            name="convnext_tiny",
            keras_class="ConvNeXtTiny",
            image_size_px=224,
            normalisation=AS_IT_IS,
            weights_file="convnext_tiny_notop.h5",
            boundary="",
            summary="27.8 M parameters",
        ),
        Backbone(
            name=EMBEDDED,
            keras_class="MobileNetV2",
            image_size_px=embedded.INPUT_SIZE_PX,
            normalisation=TO_PLUS_MINUS_ONE,
            weights_file="",
            boundary="block_12_add",
            summary="MobileNetV2, distilled; comes with headstart, no download",
        ),
    )
}


def get_backbone(name: str) -> Backbone:
    """The backbone called `name`. Raises ConfigError naming the nearest one."""
    if name in BACKBONES:
        return BACKBONES[name]
    near = difflib.get_close_matches(name, BACKBONES, n=1, cutoff=0)[0]
    raise ConfigError(
        f"unknown backbone {name!r}; the nearest is {near!r}, and there are: {', '.join(sorted(BACKBONES))}"
    )


def weights_path(backbone: Backbone, weights: str, image_size_px: int) -> Path:
    """Where the weights file lies, downloading Keras's own where it must.

    Args:
        weights: `default` (Keras's ImageNet weights; the shipped ones of `embedded`), `imagenet`, or a file's path.

    Raises:
        WeightsError: no such file, or it can't be downloaded; the message names the ways on.
    """
    if backbone.name == EMBEDDED and weights == "imagenet":
        raise WeightsError("the embedded feature extractor comes with weights of its own; leave --weights away")
    if backbone.name == EMBEDDED and weights == "default":
        return embedded.WEIGHTS
    if weights not in ("default", "imagenet"):
        path = Path(weights).expanduser()
        if not path.is_file():
            raise WeightsError(
                f"no weights file at {path}; --weights takes 'imagenet' or the path of a .h5 file with the weights of "
                f"{backbone.name} without its top"
            )
        return path
    name = backbone.weights_file.format(size=image_size_px)
    path = _keras_home() / "models" / name
    return path if path.is_file() else _download(backbone, image_size_px, path)


def weights_digest(path: Path) -> str:
    """SHA-256 of a weights file: part of the identity of every feature made with it."""
    stat = path.stat()
    return _digest(str(path), stat.st_size, stat.st_mtime_ns)


@cache
def _digest(path: str, _size: int, _mtime_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build_network(backbone: Backbone, weights: Path | None, image_size_px: int) -> keras.Model:
    """The network without its top: pixels float32 [N, S, S, 3], normalised, to its last feature map [N, h, w, C].

    Args:
        weights: a file of Keras weights, or None for random ones, in Keras's own architecture (tests).

    Raises:
        WeightsError: the file's weights don't fit the architecture.
    """
    import keras

    shape = (image_size_px, image_size_px, 3)
    if weights == embedded.WEIGHTS:
        network = embedded.build(shape)
        network.trainable = False
        return network
    builder = getattr(keras.applications, backbone.keras_class)
    network = builder(include_top=False, weights=None, input_shape=shape)
    if weights is not None:
        from tasks.networks.depthwise import with_depthwise

        try:
            network.load_weights(weights)
        except Exception as exc:
            raise WeightsError(
                f"the weights in {weights} don't fit {backbone.name} without its top: {str(exc).splitlines()[0]}"
            ) from exc
        network = with_depthwise(network)
    network.trainable = False
    return network


def _keras_home() -> Path:
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras").expanduser()


def _download(backbone: Backbone, image_size_px: int, path: Path) -> Path:
    import keras

    builder = getattr(keras.applications, backbone.keras_class)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output belongs to the command's answer
            builder(include_top=False, weights="imagenet", input_shape=(image_size_px, image_size_px, 3))
    except Exception as exc:
        raise WeightsError(
            f"the ImageNet weights of {backbone.name} are not at {path} and can't be downloaded "
            f"({str(exc).splitlines()[0]}).\n"
            "Two ways on without a network:\n"
            f"  --weights FILE        a file with those weights, brought here by hand (or put it at {path})\n"
            "  --backbone embedded   the small feature extractor that comes with headstart"
        ) from exc
    return path
