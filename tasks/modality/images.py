"""Bytes to pixels: the one decoder that inspection, extraction, evaluation, `predict` and `serve` share.

A client of model.onnx needs only this step: decode, apply the EXIF orientation, convert to RGB.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from typing import Any

import fsspec
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks.errors import DecodeError, SourceChangedError, SourceError

# Pillow's own limit only warns; ours is an error, and is set by the configuration (ingest.max_pixels).
Image.MAX_IMAGE_PIXELS = None
# Pillow warns of odd metadata, which says nothing of the pixels. Set once: a filter for a call affects all threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

# The accepted formats: plain raster formats whose decoders are part of Pillow.
# (MPO, the pictures of some phones and 3-D cameras, is opened as JPEG.)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
DEFAULT_MAX_PIXELS = 100_000_000
# The limit of JPEG. A strip of few pixels but millions long is an attack: resized, it would fill the memory.
MAX_SIDE_PX = 65_535
# What Pillow's decoders raise on damaged bytes; the less obvious ones were found by a fuzz of 300,000 files.
DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    EOFError,
    LookupError,
    OverflowError,
    MemoryError,
    RuntimeError,
    struct.error,
)


def read_bytes(uri: str) -> bytes:
    """The encoded bytes behind a local path or an fsspec URL. Raises SourceError where they can't be read."""
    try:
        if "://" not in uri:
            with open(uri, "rb") as file:  # noqa: PTH123 - a third of the time of fsspec's local file system
                return file.read()
        with fsspec.open(uri, "rb") as file:
            return file.read()  # type: ignore[union-attr]
    except OSError as exc:
        raise SourceError(f"can't read the image {uri}: {exc.strerror or exc}") from exc


def read_checked(uri: str, sha256: str) -> bytes:
    """An image's bytes, checked against its digest. Raises SourceChangedError, SourceError."""
    content = read_bytes(uri)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SourceChangedError(f"{uri} changed while the run was reading it; run again when the copy is complete")
    return content


def open_image(content: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Opens an image by its header; pixels are not decoded yet.

    Raises:
        DecodeError: not an image, one of an unsupported kind, or one of more than `max_pixels` pixels or MAX_SIDE_PX.
    """
    if not content:
        raise DecodeError("the file is empty")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise DecodeError(f"not an image of a supported kind ({', '.join(FORMATS)})") from None
    except DAMAGE as exc:
        raise DecodeError(f"the image's header can't be read: {exc}") from exc
    width, height = image.size
    if width * height > max_pixels:
        raise DecodeError(f"{width}x{height} pixels are more than the {max_pixels} allowed by ingest.max_pixels")
    if max(width, height) > MAX_SIDE_PX:
        raise DecodeError(f"{width}x{height} pixels: a side is longer than the {MAX_SIDE_PX} that are allowed")
    return image


def decode(content: bytes, max_pixels: int = DEFAULT_MAX_PIXELS, enough_px: int | None = None) -> np.ndarray:
    """Decodes an image as the model sees it.

    Args:
        content: an encoded image; the first frame of an animation.
        max_pixels: bound against decompression bombs.
        enough_px: a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as both sides keep this
            many pixels, since it is resized to fewer anyway. None: always at full size.

    Returns:
        uint8 [H, W, 3], RGB, upright (EXIF orientation applied), transparency laid over white, 16-bit grey scaled
        to 8 bits.

    Raises:
        DecodeError: as `open_image`, or the image is truncated or damaged.
    """
    image = open_image(content, max_pixels)
    if enough_px and image.mode == "RGB":
        image.draft("RGB", (enough_px, enough_px))  # without effect on other formats
    return np.asarray(to_rgb(load(image)))


def load(image: Image.Image) -> Image.Image:
    """Decodes the pixels of an opened image and turns it upright. Raises DecodeError."""
    try:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # otherwise upright images are copied, too
        return image
    except DAMAGE as exc:
        raise DecodeError(f"the image is truncated or damaged: {exc}") from exc


def to_rgb(image: Image.Image) -> Image.Image:
    """An upright decoded image as 8-bit RGB. Raises DecodeError where its palette is damaged."""
    try:
        return _converted(image)
    except DAMAGE as exc:
        raise DecodeError(f"the image's colours are damaged: {exc}") from exc


def _converted(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_scaled_to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        overlay = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", overlay.size, "white"), overlay).convert("RGB")
    return image.convert("RGB")


def _scaled_to_8_bits(grey: np.ndarray) -> np.ndarray:
    """[H, W] of integers (16-bit range) or floats (0..1, or 0..255) as uint8 [H, W]."""
    if np.issubdtype(grey.dtype, np.floating):
        top = 1.0 if grey.size and float(grey.max()) <= 1 else 255.0
        return (np.clip(grey / top, 0, 1) * 255).round().astype(np.uint8)
    values: Any = grey.astype(np.int64)
    return np.clip(values if values.size and values.max() <= 255 else values >> 8, 0, 255).astype(np.uint8)
