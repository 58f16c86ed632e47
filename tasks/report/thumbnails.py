"""Small pictures for the page, inside it."""

from __future__ import annotations

import base64

from tasks.errors import HeadstartError
from tasks.modality.images import read_bytes
from tasks.modality.thumbnails import thumbnail


def thumbnail_uri(uri: str, side_px: int = 200) -> str | None:
    """The image at `uri`, its longer side at most `side_px`, as a JPEG in a `data:` URI.

    None where the image can't be read any more: a report has to outlive its pictures.
    """
    try:
        return data_uri(thumbnail(read_bytes(uri), side_px), "image/jpeg")
    except HeadstartError:
        return None


def data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
