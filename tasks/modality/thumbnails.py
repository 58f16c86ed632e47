"""Small pictures of items, for pages that people look at."""

from __future__ import annotations

import io

from PIL import Image

from tasks.modality.images.content import DEFAULT_MAX_PIXELS, load, open_image, to_rgb
from tasks.modality.items import is_text_uri
from tasks.modality.texts.card import text_card
from tasks.modality.texts.content import decode_text


def picture_of(uri: str, content: bytes, side_px: int, **bounds: int) -> tuple[bytes, str]:
    """An item as a small picture, and its media type: of an image a JPEG (see `thumbnail`), of a text a card.

    Raises:
        DecodeError: it is no image, or no text.
    """
    if is_text_uri(uri):
        return text_card(decode_text(content), side_px), "image/svg+xml"
    return thumbnail(content, side_px, **bounds), "image/jpeg"


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
