"""Bytes to pixels: the one decoder that inspection, extraction, evaluation, `predict` and `serve` share.

A client of model.onnx needs only this step, and `decode` is it: it imports Pillow, NumPy and nothing heavier, so any
program can call it, and agrees with `predict` on every file.
"""

from __future__ import annotations

import io
import warnings
from functools import cache

import numpy as np
from PIL import Image, UnidentifiedImageError

from tasks.errors import DecodeError
from tasks.modality.images.intensity import eight_bits
from tasks.modality.images.orientation import orientation_of, upright
from tasks.modality.images.structure import check_opened, examined

# Pillow's own limit only warns; ours is an error, and is set by the configuration (ingest.max_pixels).
Image.MAX_IMAGE_PIXELS = None
# Pillow warns of odd metadata, which says nothing of the pixels. Set once: a filter for a call affects all threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

# The accepted formats: plain raster formats whose decoders are part of Pillow; beside them HEIF, see `can_read_heif`.
# (MPO, the pictures of some phones and 3-D cameras, is opened as JPEG.)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
HEIF = "HEIF"
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")  # ISO/IEC 23008-12, annex B: coded as HEVC
DEFAULT_MAX_PIXELS = 100_000_000
# Of formats whose decoders are slow and need several copies: 100 megapixels of noise took 6.4 s as AVIF, and 5.0 s and
# 2.3 GB as WebP. Cameras write none so large.
FORMAT_MAX_PIXELS = {"AVIF": 50_000_000, "WEBP": 50_000_000, HEIF: 50_000_000}
# The limit of JPEG. A strip of few pixels but millions long is an attack: resized, it would fill the memory.
MAX_SIDE_PX = 65_535


@cache
def can_read_heif() -> bool:
    """Whether HEIC, the photographs of iPhones, can be read here; tells Pillow how.

    The package for it is an extra, `heic`, because its libraries are under the LGPL.
    """
    try:
        from pi_heif import register_heif_opener
    except ImportError:
        return False
    # One thread, as there is an image a core already, and only the image itself of what a file may hold.
    register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    return True


def readable_suffixes() -> set[str]:
    """How names of files end that hold images that can be read here, in lower case."""
    Image.init()
    can_read_heif()
    return {suffix for suffix, kind in Image.EXTENSION.items() if kind in (*FORMATS, HEIF)}


def open_image(content: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Opens an image by its header; pixels are not decoded yet.

    Raises:
        DecodeError: not an image, one of an unsupported kind, one of more pixels than `max_pixels`, FORMAT_MAX_PIXELS
            or MAX_SIDE_PX allow, or one whose structure would cost too much (see `tasks.modality.images.structure`).
    """
    if not content:
        raise DecodeError("the file is empty")
    heif = _is_heif(content)
    if heif and not can_read_heif():
        raise DecodeError("reading HEIC takes the package pi-heif: install headstart's extra `heic`")
    try:
        encoded = examined(content)
        image = Image.open(io.BytesIO(encoded.content), formats=(HEIF,) if heif else FORMATS)
        check_opened(image, encoded)
    except DecodeError:
        raise
    except UnidentifiedImageError:
        raise DecodeError(f"not an image of a supported kind ({', '.join(FORMATS)}, HEIC)") from None
    except Exception as exc:  # noqa: BLE001 - the plugins' exceptions share no base
        raise DecodeError(f"the image's header can't be read: {_reason(exc)}") from None
    if encoded.exif:
        image.info["exif"] = encoded.exif
    if encoded.xmp:
        image.info["xmp"] = encoded.xmp
    width, height = image.size
    if width * height > max_pixels:
        raise DecodeError(f"{width}x{height} pixels are more than the {max_pixels} allowed by ingest.max_pixels")
    if width * height > FORMAT_MAX_PIXELS.get(image.format or "", max_pixels):
        raise DecodeError(
            f"{width}x{height} pixels are more than the {FORMAT_MAX_PIXELS[image.format or '']} allowed of "
            f"{image.format}: save it as JPEG or PNG"
        )
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
        uint8 [H, W, 3], RGB, upright (EXIF orientation applied), transparency laid over white, deeper grey scaled
        to 8 bits by its format's depth, colour profiles ignored.

    Raises:
        DecodeError: as `open_image`, or the image is truncated or damaged.
    """
    image = open_image(content, max_pixels)
    if enough_px and image.mode == "RGB":
        image.draft("RGB", (enough_px, enough_px))  # without effect on other formats
    return np.asarray(to_rgb(load(image)))


def load(image: Image.Image) -> Image.Image:
    """Decodes an opened image: upright, with 8 bits for each channel. Raises DecodeError."""
    try:
        image.load()
        return upright(eight_bits(image), orientation_of(image))
    except DecodeError:
        raise
    except Exception as exc:  # noqa: BLE001 - as in `open_image`
        raise DecodeError(f"the image is truncated or damaged: {_reason(exc)}") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """An upright decoded image as 8-bit RGB. Raises DecodeError where its palette is damaged."""
    try:
        return _converted(image)
    except Exception as exc:  # noqa: BLE001 - as in `open_image`
        raise DecodeError(f"the image's colours are damaged: {_reason(exc)}") from None


def _is_heif(content: bytes) -> bool:
    """Whether a file says in its first box that it is an image coded as HEVC (ISO/IEC 14496-12, 4.3)."""
    if content[4:8] != b"ftyp":
        return False
    brands = content[8 : min(int.from_bytes(content[:4], "big"), 256)]
    return any(brands[place : place + 4] in HEIF_BRANDS for place in range(0, len(brands), 4))


def _reason(exc: Exception) -> str:
    """An exception's text as one line that any file can hold."""
    text = " ".join(str(exc).split())[:200] or type(exc).__name__
    return text.encode(errors="backslashreplace").decode()


def _converted(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        overlay = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", overlay.size, "white"), overlay).convert("RGB")
    return image.convert("RGB")
