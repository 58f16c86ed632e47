"""Properties of one image, from its bytes: header, whether it decodes, brightness, sharpness, perceptual hash.

An inspection is a function of the image's bytes, so that of a sound image is stored under their digest and never made
twice. Faults are not stored: they are few, and may depend on a limit of the configuration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from PIL import Image

from tasks.errors import DecodeError
from tasks.modality.images.content import load, open_image, to_rgb
from tasks.modality.images.orientation import orientation_of, upright_size
from tasks.storage.part_store import PartStore
from tasks.storage.tables import IMAGE_FACTS
from tasks.workspace import Workspace

# Raise this whenever a value below is computed differently: rows of other versions are then ignored.
INSPECTOR = 3
GREY_SIDE_PX = 128
HASH_SIDE = 8
DCT_SIDE = 32
INNER_CROP = 0.025  # of each side

SCHEMA = pa.schema([("sha256", pa.string()), ("inspector", pa.int16()), *IMAGE_FACTS])


@dataclass(frozen=True, slots=True)
class Inspection:
    """The properties of one image. Sizes are those of the upright image, in pixels."""

    width_px: int = 0
    height_px: int = 0
    format: str = ""
    mode: str = ""
    brightness: float = 0.0  # mean of the grey image, 0 (black) to 1 (white)
    contrast: float = 0.0  # standard deviation of the grey image, 0 (blank) to 0.5
    sharpness: float = 0.0  # variance of the Laplacian of the grey image (0..255), at 128 px
    phash: bytes = b""
    fault: str | None = None


def inspection_store(workspace: Workspace) -> PartStore:
    return PartStore(workspace, "inspections", SCHEMA, key=("sha256", "inspector"))


def inspect(content: bytes, max_pixels: int) -> Inspection:
    """Inspects one encoded image; what is wrong with it is returned in `fault`, not raised.

    A JPEG is decoded at a reduced scale: that skips most of the inverse transform, but the decoder still reads
    every byte of the entropy-coded data, so a truncated file is noticed.
    """
    try:
        return _inspect(content, max_pixels)
    except DecodeError as exc:
        return Inspection(fault=str(exc))
    except Exception as exc:  # noqa: BLE001 - whatever surprises in one file is that file's fault, and stops no other
        return Inspection(fault=f"the image can't be read: {type(exc).__name__}")


def _inspect(content: bytes, max_pixels: int) -> Inspection:
    image = open_image(content, max_pixels)
    header = {"format": image.format or "", "mode": image.mode}
    size = image.size
    if image.format == "JPEG":
        image.draft("L", (GREY_SIDE_PX, GREY_SIDE_PX))
    grey = grey_thumbnail(load(image))
    width, height = upright_size(size, orientation_of(image))
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


def perceptual_hash(grey: Image.Image) -> bytes:
    """128 bytes that are alike for images that look alike: int8 [2, 8, 8], of the whole image and of its inner part.

    Each half is the low frequencies of the 32 x 32 grey image, as in pHash (Zauner 2010, "Implementation and
    Benchmarking of Perceptual Image Hash Functions"), but kept as numbers instead of as signs. They are weighted by
    frequency, for amplitudes of photographs fall with it (Field 1987), and scaled to length 127; the mean is left
    out. So brightness and contrast play no part; a mirrored image has the odd columns negated; and the inner part
    (2.5 % off each side) is like the whole of a copy that was cropped a little.
    """
    width, height = grey.size
    inner = (INNER_CROP * width, INNER_CROP * height, (1 - INNER_CROP) * width, (1 - INNER_CROP) * height)
    return b"".join(_low_frequencies(grey, box) for box in ((0, 0, width, height), inner))


def _low_frequencies(grey: Image.Image, box: tuple[float, float, float, float]) -> bytes:
    small = np.asarray(grey.resize((DCT_SIDE, DCT_SIDE), Image.Resampling.BOX, box=box), dtype=np.float32)
    low = (_DCT @ small @ _DCT.T) * _FREQUENCY
    length = float(np.linalg.norm(low)) or 1.0
    return np.rint(low * (127 / length)).astype(np.int8).tobytes()


def _dct_rows(rows: int, size: int) -> np.ndarray:
    """The first `rows` vectors of the orthonormal discrete cosine transform (DCT-II), float32 [rows, size]."""
    frequency, place = np.arange(rows)[:, None], np.arange(size)[None]
    basis = np.cos(np.pi * frequency * (2 * place + 1) / (2 * size)) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)


_DCT = _dct_rows(HASH_SIDE, DCT_SIDE)
_FREQUENCY = np.hypot(*np.mgrid[:HASH_SIDE, :HASH_SIDE]).astype(np.float32)  # 0 at the mean
