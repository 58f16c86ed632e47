"""Which way up an image is: the one place that knows, for training, `predict` and `serve` alike.

An orientation that can't be read means upright: metadata that is damaged says nothing of the pixels.
"""

from __future__ import annotations

import re

from PIL import Image

UPRIGHT = 1
# How to turn the pixels, by EXIF's values (JEITA CP-3451, tag 0x0112).
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTERS = (5, 6, 7, 8)  # width and height change places
_TAG, _SHORT, _LONG = 0x0112, 3, 4
_MAX_TAGS = 1024
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """A decoded image, turned."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(width, height) of an image of `size` once it is upright."""
    return (size[1], size[0]) if orientation in _QUARTERS else size


def orientation_of(image: Image.Image) -> int:
    """The orientation of a decoded image, 1 to 8: EXIF's, or else XMP's.

    Pillow turns a TIFF upright itself. A PNG's metadata may follow its pixels, so it is known only after decoding.
    """
    if image.format == "TIFF":
        return UPRIGHT
    found = _of_exif(_exif(image.info))
    if found is None:
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
        match = _XMP.search(xmp.encode(errors="replace") if isinstance(xmp, str) else bytes(xmp))
        found = int(match[1]) if match else UPRIGHT
    return found


def _exif(info: dict[str | tuple[int, int], object]) -> bytes:
    """The block of EXIF; ImageMagick writes it as text into a PNG."""
    if isinstance(block := info.get("exif"), bytes):
        return block
    if isinstance(text := info.get("Raw profile type exif"), str):
        try:
            return bytes.fromhex("".join(text.split("\n")[3:]))
        except ValueError:
            return b""
    return b""


def _of_exif(block: bytes) -> int | None:
    """The orientation in the first folder of a TIFF structure (TIFF 6.0, section 2); None where it has no such tag."""
    body = block.removeprefix(b"Exif\0\0")
    order = "little" if body[:2] == b"II" else "big"
    if body[:2] not in (b"II", b"MM"):
        return None

    def number(place: int, size: int) -> int:
        return int.from_bytes(body[place : place + size], order)

    first = number(4, 4)
    for place in range(first + 2, first + 2 + 12 * min(number(first, 2), _MAX_TAGS), 12):
        if number(place, 2) == _TAG:
            size = {_SHORT: 2, _LONG: 4}.get(number(place + 2, 2), 0)
            value = number(place + 8, size) if size and number(place + 4, 4) == 1 else UPRIGHT
            return value if value in _TURNS else UPRIGHT
    return None
