"""Does the model still say the same of a picture that was recompressed, blurred, lit otherwise or tilted a little?

A bounded sample of test images is changed and answered again; each answer is set beside the one to the image as it is.
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

LARGEST = 4  # times the model's own size: a picture of many megapixels is made smaller before it is changed


class Robustness(Section):
    """How much each change does, how many images are asked, and what they may lose."""

    images: int = Field(ge=1)
    max_accuracy_drop: float = Field(ge=0, le=1)
    jpeg_quality: int = Field(ge=1, le=95)
    blur: float = Field(gt=0, lt=1)
    brightness: float = Field(gt=0, lt=1)
    rotation_degrees: float = Field(gt=0, le=180)


@dataclass(frozen=True, kw_only=True)
class Changed:
    """One kind of change: what became of `n` images' answers. `drop` is in accuracy; `interval` is its, at 95 %."""

    kind: str
    strength: str
    n: int
    accuracy_before: float
    accuracy: float
    drop: float
    interval: tuple[float, float]


def measure_robustness(
    classifier: Classifier,
    read: Sequence[Callable[[], np.ndarray]],
    targets: np.ndarray,
    right_before: np.ndarray,
    image_size_px: int,
    limits: Robustness,
    workers: int = 0,
) -> list[Changed]:
    """Answers each image under each change.

    Args:
        read: each gives an image, uint8 [H, W, 3] RGB; called in a worker.
        targets: int [N].
        right_before: bool [N], whether the image as it is was answered right.
        workers: threads; 0 takes one a core.
    """
    if not read:
        return []

    def answers(number: int) -> list[bool]:
        image = Image.fromarray(read[number]())
        image.thumbnail((LARGEST * image_size_px, LARGEST * image_size_px))
        sign = (
            1 if number % 2 else -1
        )  # half of the images darker and tilted to one side, half brighter and to the other
        return [
            int(classifier.probabilities(np.asarray(change(image, sign, limits))).argmax()) == targets[number]
            for change, _ in CHANGES.values()
        ]

    with ThreadPoolExecutor(workers or available_cores(), thread_name_prefix="robustness") as pool:
        right = np.array(list(pool.map(answers, range(len(read)))))
    return [
        _changed(kind, strength.format(limits=limits), right_before, right[:, column])
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
    """Laid over the image as it is, so that no black corners come in."""
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
