"""A heat map as a picture over its photograph: clear where there is no heat, red where there is most."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

SIDE_PX = 96
LEVELS = 64
FAINTEST = 0.4  # share of the most heat below which nothing is drawn
LEAST = 0.05  # a fall of the log-odds that means something: a map that is nowhere above it stays faint
MOST_OPAQUE = 0.78
AMBER, RED = (255, 170, 30), (226, 24, 30)


def heat_picture(heat: np.ndarray, width_px: int, height_px: int) -> bytes:
    """A PNG of the photograph's proportions, its longer side SIDE_PX.

    Args:
        heat: falls of log-odds, float [h, w]; the highest is drawn strongest, and what is not above 0 not at all.
        width_px, height_px: of the photograph, upright.
    """
    longer = max(width_px, height_px)
    size = (max(1, round(SIDE_PX * width_px / longer)), max(1, round(SIDE_PX * height_px / longer)))
    share = np.clip(heat, 0, None) / max(float(heat.max()), LEAST)
    smooth = Image.fromarray(share.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    drawn = np.clip((np.asarray(smooth) - FAINTEST) / (1 - FAINTEST), 0, 1)
    picture = Image.fromarray(np.round(drawn * (LEVELS - 1)).astype(np.uint8), "P")
    steps = np.linspace(0, 1, LEVELS)
    colours = np.outer(1 - steps, AMBER) + np.outer(steps, RED)
    picture.putpalette(colours.round().astype(np.uint8).tobytes())
    opacity = MOST_OPAQUE * steps**2 * (3 - 2 * steps) * 255  # no edge at either end
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=opacity.round().astype(np.uint8).tobytes(), optimize=True)
    return buffer.getvalue()
