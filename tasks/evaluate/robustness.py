"""Robustness: does the prediction survive recompression, blur, another brightness and a slight rotation? Of a text:
typing errors, another case, no punctuation?

A limited sample of test items is changed and predicted again, and compared with the predictions for the originals.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter
from pydantic import Field

from tasks.config import Section
from tasks.evaluate.comparison import bootstrap_bounds
from tasks.modality.feeds import Feed, feed_of_image
from tasks.modality.images.content import DEFAULT_MAX_PIXELS
from tasks.modality.texts.changes import other_case, with_typos, without_punctuation
from tasks.modality.texts.content import decode_text
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
    typos: float = Field(gt=0, le=1)


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
    """Test items: functions that return their bytes (called on a worker thread), their classes int [N], whether each
    was predicted right unchanged, bool [N], and, of images, the model's input size."""

    readers: Sequence[Callable[[], bytes]]
    targets: np.ndarray
    right_before: np.ndarray
    image_size_px: int = 0
    max_pixels: int = DEFAULT_MAX_PIXELS


def measure_robustness(classifier: Classifier, sample: Sample, limits: Robustness, workers: int = 0) -> list[Changed]:
    """Predicts each item under each change, on `workers` threads (0: one for each core)."""
    if not sample.readers:
        return []
    changes, changed = (TEXT_CHANGES, _changed_texts) if classifier.task == "text" else (IMAGE_CHANGES, _changed_images)

    def right(number: int) -> list[bool]:
        feeds = changed(classifier, sample, number, limits)
        return [int(classifier.predict_one(feed).probabilities.argmax()) == sample.targets[number] for feed in feeds]

    with ThreadPoolExecutor(workers or available_cores(), thread_name_prefix="robustness") as pool:
        after = np.array(list(pool.map(right, range(len(sample.readers)))))
    return [
        _changed(kind, strength.format(limits=limits), sample.right_before, after[:, column])
        for column, (kind, (_, strength)) in enumerate(changes.items())
    ]


def _changed_images(classifier: Classifier, sample: Sample, number: int, limits: Robustness) -> Iterator[Feed]:
    image = Image.fromarray(classifier.read(sample.readers[number](), sample.max_pixels)["image"][0])
    image.thumbnail((LARGEST * sample.image_size_px, LARGEST * sample.image_size_px))
    # Half of the images are made darker and tilted to one side, half brighter and tilted to the other.
    sign = 1 if number % 2 else -1
    for change, _ in IMAGE_CHANGES.values():
        yield feed_of_image(np.asarray(change(image, sign, limits)))


def _changed_texts(classifier: Classifier, sample: Sample, number: int, limits: Robustness) -> Iterator[Feed]:
    text = decode_text(sample.readers[number]())
    for change, _ in TEXT_CHANGES.values():
        yield classifier.read(change(text, limits).encode())


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


TEXT_CHANGES = {
    "typing errors": (lambda text, limits: with_typos(text, limits.typos), "in {limits.typos:.0%} of the words"),
    "case": (lambda text, limits: other_case(text), "small letters, or capitals"),
    "punctuation": (lambda text, limits: without_punctuation(text), "none"),
}
IMAGE_CHANGES = {
    "JPEG": (_recompressed, "quality {limits.jpeg_quality}"),
    "blur": (_blurred, "Gaussian, {limits.blur:.1%} of the shorter side"),
    "brightness": (_lit, "{limits.brightness:.0%} darker or brighter"),
    "rotation": (_tilted, "{limits.rotation_degrees:g} degrees to either side"),
}
