"""Robustness: does the prediction survive recompression, blur, another brightness and a slight rotation?

A limited sample of test images is changed and predicted again, and compared with the predictions for the originals.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter
from pydantic import Field

from tasks.config import Section
from tasks.evaluate.comparison import bootstrap_bounds
from tasks.networks.classifier import Classifier
from tasks.networks.onnx_session import available_cores

LARGEST = 4  # times the input size: a picture of many megapixels is reduced before it is changed


class Robustness(Section):
    """The strength of each change, the number of images, and the loss that is allowed."""

    images: int = Field(ge=1)
    max_accuracy_drop: float = Field(ge=0, le=1)
    jpeg_quality: int = Field(ge=1, le=95)
    blur: float = Field(gt=0, lt=1)
    brightness: float = Field(gt=0, lt=1)
    rotation_degrees: float = Field(gt=0, le=180)


@dataclass(frozen=True, kw_only=True)
class Changed:
    """The result of one kind of change on `n` images; `drop` is the loss of accuracy, `interval` its 95 % interval."""

    kind: str
    strength: str
    n: int
    accuracy_before: float
    accuracy: float
    drop: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Sample:
    """Test images: functions that return them (uint8 [H, W, 3] RGB, called on a worker thread), their classes int [N],
    whether each was predicted right unchanged, bool [N], and the model's input size."""

    readers: Sequence[Callable[[], np.ndarray]]
    targets: np.ndarray
    right_before: np.ndarray
    image_size_px: int


def measure_robustness(classifier: Classifier, sample: Sample, limits: Robustness, workers: int = 0) -> list[Changed]:
    """Predicts each image under each change, on `workers` threads (0: one for each core)."""
    if not sample.readers:
        return []

    def right(number: int) -> list[bool]:
        image = Image.fromarray(sample.readers[number]())
        image.thumbnail((LARGEST * sample.image_size_px, LARGEST * sample.image_size_px))
        sign = (
            1 if number % 2 else -1
        )  # half of the images darker and tilted to one side, half brighter and to the other
        return [
            int(classifier.probabilities(np.asarray(change(image, sign, limits))).argmax()) == sample.targets[number]
            for change, _ in CHANGES.values()
        ]

    with ThreadPoolExecutor(workers or available_cores(), thread_name_prefix="robustness") as pool:
        after = np.array(list(pool.map(right, range(len(sample.readers)))))
    return [
        _changed(kind, strength.format(limits=limits), sample.right_before, after[:, column])
        for column, (kind, (_, strength)) in enumerate(CHANGES.items())
    ]


def _changed(kind: str, strength: str, before: np.ndarray, after: np.ndarray) -> Changed:
    n, lost, won = len(before), int((before & ~after).sum()), int((after & ~before).sum())
    low, high = bootstrap_bounds(won, lost, n, 0.975)
    return Changed(
        kind=kind,
        strength=strength,
        n=n,
        accuracy_before=float(before.mean()),
        accuracy=float(after.mean()),
        drop=(lost - won) / n,
        interval=(-high, -low),
    )


def _recompressed(image: Image.Image, sign: int, limits: Robustness) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=limits.jpeg_quality)
    return Image.open(buffer)


def _blurred(image: Image.Image, sign: int, limits: Robustness) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(limits.blur * min(image.size)))


def _lit(image: Image.Image, sign: int, limits: Robustness) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1 + sign * limits.brightness)


def _tilted(image: Image.Image, sign: int, limits: Robustness) -> Image.Image:
    """Rotated over the original image, which fills the corners."""
    turned = image.convert("RGBA").rotate(sign * limits.rotation_degrees, Image.Resampling.BILINEAR)
    result = image.copy()
    result.paste(turned, mask=turned.getchannel("A"))
    return result


CHANGES = {
    "JPEG": (_recompressed, "quality {limits.jpeg_quality}"),
    "blur": (_blurred, "Gaussian, {limits.blur:.1%} of the shorter side"),
    "brightness": (_lit, "{limits.brightness:.0%} darker or brighter"),
    "rotation": (_tilted, "{limits.rotation_degrees:g} degrees to either side"),
}
