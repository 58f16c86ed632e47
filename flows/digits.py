"""Handwritten digits as a tensorflow-datasets data set, prepared offline from scikit-learn's bundled scans.

1,797 digits of 43 people at 8 x 8 pixels (Alpaydin & Kaynak 1998, UCI 'Optical Recognition of Handwritten Digits',
CC BY 4.0), enlarged four times. Two configs, of which the second is the first with more labels: what a growing data
set looks like.

They show the flow, not the feature extractor: random features already tell these digits apart.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import keras  # noqa: F401 - before TensorFlow, as everywhere: see tasks/networks/keras_process.py
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

tfds.disable_progress_bar()  # three nested bars for half a second of work

SIDE_PX = 32
FIRST_BATCH = 1500


class DigitsConfig(tfds.core.BuilderConfig):
    """How many of the scans there are so far."""

    images: int | None = None


def _config(name: str, images: int | None, description: str) -> DigitsConfig:
    config = DigitsConfig(name=name, description=description)
    config.images = images
    return config


class HeadstartDigits(tfds.core.GeneratorBasedBuilder):
    """The scans as PNG, with one split, `scans`, so that headstart makes the splits."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 - as tensorflow-datasets declares it
        _config("first", FIRST_BATCH, "the first 1,500 scans"),
        _config("all", None, "all 1,797 scans"),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(SIDE_PX, SIDE_PX, 1), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
            }
        )
        return self.dataset_info_from_configs(features=features, supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"scans": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        from sklearn.datasets import load_digits

        bunch: Any = load_digits()
        count = self.builder_config.images  # type: ignore[union-attr]
        for index, (scan, target) in enumerate(zip(bunch.images[:count], bunch.target[:count], strict=True)):
            yield index, {"image": io.BytesIO(_png(scan)), "label": int(target)}


def _png(scan: np.ndarray) -> bytes:
    """Float [8, 8] of 0..16, dark on light, as an enlarged PNG."""
    grey = Image.fromarray((255 - scan * 255 / 16).round().astype(np.uint8))
    buffer = io.BytesIO()
    grey.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()
