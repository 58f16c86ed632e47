"""Small pictures for the page, inside it."""

from __future__ import annotations

import base64

from tasks.errors import HeadstartError
from tasks.modality.items import read_bytes
from tasks.modality.thumbnails import picture_of


def thumbnail_uri(uri: str, side_px: int = 200) -> str | None:
    """The item at `uri` as a small picture in a `data:` URI: an image, its longer side at most `side_px`, or a text.

    None where it can't be read any more: a report has to outlive its pictures.
    """
    try:
        return data_uri(*picture_of(uri, read_bytes(uri), side_px))
    except HeadstartError:
        return None


def data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
