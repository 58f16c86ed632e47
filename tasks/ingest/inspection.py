"""What can be told of one image from its bytes alone: header, whether it decodes, light, focus, perceptual hash.

An inspection is a function of the image's bytes, so that of a sound image is kept under their digest and never made
twice. Faults are not kept: they are few, and a bound of the configuration may be behind one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from PIL import ExifTags, Image

from tasks.errors import DecodeError
from tasks.images import load, open_image, to_rgb
from tasks.store import PartStore
from tasks.workspace import Workspace

# Raise this whenever a figure below is computed otherwise: rows of other versions then no longer count.
INSPECTOR = 1
GREY_SIDE_PX = 128
HASH_SIDE = 8
DCT_SIDE = 32

SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("inspector", pa.int16()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("format", pa.string()),
        ("mode", pa.string()),
        ("brightness", pa.float32()),
        ("contrast", pa.float32()),
        ("sharpness", pa.float32()),
        ("phash", pa.uint64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Inspection:
    """The facts of one image. Sizes are those of the upright image, in pixels."""

    width_px: int = 0
    height_px: int = 0
    format: str = ""
    mode: str = ""
    brightness: float = 0.0  # mean of the grey image, 0 (black) to 1 (white)
    contrast: float = 0.0  # standard deviation of the grey image, 0 (blank) to 0.5
    sharpness: float = 0.0  # variance of the Laplacian of the grey image (0..255), at 128 px
    phash: int = 0
    fault: str | None = None


def inspection_store(workspace: Workspace) -> PartStore:
    return PartStore(workspace, "inspections", SCHEMA, key=("sha256", "inspector"))


def inspect(content: bytes, max_pixels: int) -> Inspection:
    """Inspects one encoded image; what is wrong with it is in `fault`, never raised.

    A JPEG is decoded at a reduced scale: that leaves out most of the inverse transform, but the decoder still walks
    every byte of the entropy-coded data, so a truncated file shows.
    """
    try:
        image = open_image(content, max_pixels)
        header = {"format": image.format or "", "mode": image.mode}
        width, height = image.size
        if image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8):  # turned by a quarter
            width, height = height, width
        if image.format in ("JPEG", "MPO"):
            image.draft("L", (GREY_SIDE_PX, GREY_SIDE_PX))
        grey = grey_thumbnail(load(image))
    except DecodeError as exc:
        return Inspection(fault=str(exc))
    pixels = np.asarray(grey, dtype=np.float32)
    return Inspection(
        **header,
        width_px=width,
        height_px=height,
        brightness=float(pixels.mean()) / 255,
        contrast=float(pixels.std()) / 255,
        sharpness=laplacian_variance(pixels),
        phash=perceptual_hash(grey),
    )


def grey_thumbnail(image: Image.Image) -> Image.Image:
    """The image in grey (mode L), its longer side at most 128 px."""
    grey = image if image.mode == "L" else to_rgb(image).convert("L")
    grey.thumbnail((GREY_SIDE_PX, GREY_SIDE_PX), Image.Resampling.BILINEAR)
    return grey


def laplacian_variance(pixels: np.ndarray) -> float:
    """Sharpness: the variance of the 4-neighbour Laplacian of `pixels`, float32 [H, W], 0..255.

    Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy". 0 for images under 3 px.
    """
    if min(pixels.shape) < 3:
        return 0.0
    centre = pixels[1:-1, 1:-1]
    laplacian = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:] - 4 * centre
    return float(laplacian.var())


def perceptual_hash(grey: Image.Image) -> int:
    """The 64-bit DCT hash (pHash; Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions").

    Bit 8*row + column says whether that low frequency of the 32 x 32 grey image is above the median of the 64.
    """
    small = np.asarray(grey.resize((DCT_SIDE, DCT_SIDE), Image.Resampling.BILINEAR), dtype=np.float32)
    low = _DCT @ small @ _DCT.T
    bits = (low > np.median(low)).ravel()
    return int(np.packbits(bits).view(">u8")[0])


def _dct_rows(rows: int, size: int) -> np.ndarray:
    """The first `rows` basis vectors of the type-II discrete cosine transform, float32 [rows, size]."""
    frequency, place = np.arange(rows)[:, None], np.arange(size)[None]
    return np.cos(np.pi * frequency * (2 * place + 1) / (2 * size)).astype(np.float32)


_DCT = _dct_rows(HASH_SIDE, DCT_SIDE)
