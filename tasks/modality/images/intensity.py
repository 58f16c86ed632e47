"""Grey values of more than 8 bits as 8 bits, by the depth of the format and never by the image's own values.

So two frames of one camera, a dark and a bright one, keep their difference. Where a format does not say which value is
white, the image is refused: a guess would differ from image to image. Colour profiles (ICC) are ignored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from tasks.errors import DecodeError

# Of TIFF. Its tags MinSampleValue and MaxSampleValue are statistics of the one image, so they are not used.
_BITS_PER_SAMPLE = 258
HOW_TO_MEND = "save it with 8 or 16 bits"


def eight_bits(image: Image.Image) -> Image.Image:
    """A decoded image with 8 bits a channel. Raises DecodeError where it can't be known which value is white."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    white = _white(image)
    if white is None:
        raise DecodeError(f"its values have 32 bits, and it can't be known which one is white: {HOW_TO_MEND}")
    highest = values.max(initial=0)
    if image.mode == "F" and not (np.isfinite(values).all() and highest <= 1):
        raise DecodeError(
            f"its floating-point values reach {highest:g}, and it can't be known which one is white (0 to 1 is "
            f"understood): {HOW_TO_MEND}"
        )
    return Image.fromarray(_scaled(values, white))


def _scaled(values: np.ndarray, white: float) -> np.ndarray:
    """[H, W] as uint8; negative values are black, those above `white` white."""
    if white == 65535:
        return (np.clip(values, 0, 65535).astype(np.uint16) >> 8).astype(np.uint8)  # the way of Pillow with colours
    return np.rint(np.clip(values.astype(np.float32) / white, 0, 1) * 255).astype(np.uint8)


def _white(image: Image.Image) -> float | None:
    """The value that stands for white; None where the format does not say."""
    if image.mode == "F":
        return 1.0
    tags: Any = getattr(image, "tag_v2", None)
    if tags is None:  # only PNG and PGM get here, with 16 bits
        return 65535.0
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    signed = image.mode == "I"
    return float(2 ** (bits - signed) - 1) if bits <= 16 else None
