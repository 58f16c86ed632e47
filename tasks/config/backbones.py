"""The names of backbones and of the boundary above all of their layers."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

EMBEDDED_TEXT = "embedded_text"  # the encoder of texts that comes with headstart

# The networks of `tasks.networks.registry`, in its order, and the one for texts: what the form in Prefect's UI offers.
BACKBONE_NAMES = (
    "mobilenet_v2",
    "mobilenet",
    "vgg16",
    "resnet50",
    "inception_v3",
    "xception",
    "efficientnet_v2_b0",
    "convnext_tiny",
    "embedded",
    EMBEDDED_TEXT,
)


def known_name(backbone: str) -> str:
    """A backbone's name as headstart writes it, however papers and Keras do: 'MobileNetV2' is 'mobilenet_v2'."""
    plain = re.sub(r"[\W_]", "", backbone).lower()
    return next((name for name in BACKBONE_NAMES if name.replace("_", "") == plain), backbone)


def is_onnx_file(backbone: str) -> bool:
    """Whether a backbone is an ONNX file: given by its path, or the one for texts that comes with headstart."""
    return backbone.endswith(".onnx") or backbone == EMBEDDED_TEXT


BackboneName = Annotated[str, AfterValidator(known_name)]


POOLED = "avg_pool"  # the freeze boundary above the last feature map's global average
