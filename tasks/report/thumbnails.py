"""Small pictures for the page, inside it."""

from __future__ import annotations

import base64
import io

from PIL import Image

from tasks.errors import HeadstartError
from tasks.modality.images import load, open_image, read_bytes, to_rgb


def thumbnail_uri(uri: str, side_px: int = 200, quality: int = 72) -> str | None:
    """The image at `uri`, its longer side at most `side_px`, as a JPEG in a `data:` URI.

    None where the image can't be read any more: a report has to outlive its pictures.
    """
    try:
        image = open_image(read_bytes(uri))
        # A JPEG decodes at 1/2, 1/4 or 1/8 of its size in a fraction of the time; twice the side stays sharp.
        image.draft("RGB", (2 * side_px, 2 * side_px))
        small = to_rgb(load(image))
    except HeadstartError:
        return None
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality, optimize=True)
    return data_uri(buffer.getvalue(), "image/jpeg")


def data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
