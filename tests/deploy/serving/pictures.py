"""Encoded pictures for requests."""

from __future__ import annotations

import io

from PIL import Image

RGB = {"red": (220, 30, 40), "green": (30, 200, 60), "blue": (20, 40, 210)}
DIM = (60, 90, 70)  # of no colour that a model knows


def encoded(colour: str = "red", kind: str = "JPEG", size_px: tuple[int, int] = (64, 48), **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size_px, RGB.get(colour, DIM)).save(buffer, kind, **options)
    return buffer.getvalue()
