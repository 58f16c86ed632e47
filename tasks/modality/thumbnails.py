"""Small pictures of images, for pages that people look at. (Texts are shown in words.)"""

from __future__ import annotations

import io

from PIL import Image

from tasks.modality.images.content import DEFAULT_MAX_PIXELS, load, open_image, to_rgb


def thumbnail(content: bytes, side_px: int, *, quality: int = 72, max_pixels: int = DEFAULT_MAX_PIXELS) -> bytes:
    """An image as a JPEG, upright, its longer side at most `side_px`.

    Raises:
        DecodeError: see `tasks.modality.images.content.open_image`.
    """
    image = open_image(content, max_pixels)
    # A JPEG decodes at 1/2, 1/4 or 1/8 of its size in a fraction of the time; twice the side stays sharp.
    image.draft("RGB", (2 * side_px, 2 * side_px))
    small = to_rgb(load(image))
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
