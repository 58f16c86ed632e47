"""Items as the pages show them: images small and inside the page, texts in words."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tasks.errors import HeadstartError
from tasks.modality.items import is_text_uri, read_bytes, read_checked
from tasks.modality.texts.content import decode_text, tidy
from tasks.modality.thumbnails import thumbnail
from tasks.networks.onnx_session import available_cores

MOST_LETTERS = 320  # of a text on a page; the rest is cut off


def thumbnail_uri(uri: str, side_px: int = 200, sha256: str | None = None) -> str | None:
    """The image at `uri` as a small picture in a `data:` URI, its longer side at most `side_px`.

    None where it can't be read any more, or has another digest: a report has to outlive its pictures.
    """
    try:
        return data_uri(thumbnail(_content(uri, sha256), side_px), "image/jpeg")
    except HeadstartError:
        return None


def preview(uri: str, side_px: int = 200, sha256: str | None = None) -> dict[str, str]:
    """The item at `uri` as a template takes it: `picture`, as `thumbnail_uri`, or `text`; neither where it can't be
    read any more, or has another digest."""
    if not is_text_uri(uri):
        picture = thumbnail_uri(uri, side_px, sha256)
        return {"picture": picture} if picture else {}
    try:
        text = tidy(decode_text(_content(uri, sha256)))
        return {"text": textwrap.shorten(text, MOST_LETTERS, placeholder=" …")}
    except HeadstartError:
        return {}


def _content(uri: str, sha256: str | None) -> bytes:
    return read_bytes(uri) if sha256 is None else read_checked(uri, sha256)


def previews(uris: Iterable[str], side_px: int) -> dict[str, dict[str, str]]:
    """The previews of items, by their URIs."""
    wanted = list(dict.fromkeys(uris))
    with ThreadPoolExecutor(available_cores()) as pool:
        return dict(zip(wanted, pool.map(lambda uri: preview(uri, side_px), wanted), strict=True))


def nearest_previews(near: Sequence[tuple[str, str]], shown: dict[str, dict[str, str]]) -> list[dict[str, str]]:
    """(URI, label) of similar items as a template takes them."""
    return [{"label": label, **shown[uri]} for uri, label in near]


def data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
