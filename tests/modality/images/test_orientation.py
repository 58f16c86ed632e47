"""EXIF that can be read turns an image upright; EXIF that can't be read means that it is upright."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from tasks.modality.images.content import decode
from tasks.modality.images.inspection import inspect
from tests import hostile
from tests.photos import encoded, photo

PICTURE = photo(4, size=(60, 40))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def as_pillow_turns_it(content: bytes) -> np.ndarray:
    import io

    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_each_orientation_of_each_format(kind, orientation):
    content = encoded(PICTURE, kind, exif=exif(orientation))
    expected = as_pillow_turns_it(content)
    assert expected.shape[:2] == ((60, 40) if orientation > 4 else (40, 60))
    assert (decode(content) == expected).all()
    found = inspect(content, 10**8)
    assert (found.height_px, found.width_px) == expected.shape[:2]


BROKEN = {
    "cut": b"Exif\0\0II*\0\x08\0\0\0\x05",
    "no order": b"Exif\0\0XX*\0\x08\0\0\0",
    "empty": b"Exif\0\0",
    "far offset": b"Exif\0\0II*\0\xff\xff\xff\xff",
    "offset of itself": b"Exif\0\0II*\0\0\0\0\0",
    "orientation 0": hostile.exif_block(0, 0, 0),
    "orientation 9": hostile.exif_block(0, 0, 9),
    "orientation as text": b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4s", 0x0112, 2, 4, b"six\0") + bytes(4),
    "two orientations": b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 2, 6, 6) + bytes(4),
    "60,000 tags": b"Exif\0\0MM\0*\0\0\0\x08\xea\x60" + bytes(100),
}


@pytest.mark.parametrize("name", BROKEN)
def test_exif_that_can_not_be_read_means_upright(name):
    jpeg = hostile.jpeg_with_exif(BROKEN[name])
    png = hostile.png_of_chunks(1, b"eXIf", BROKEN[name][6:])
    for content, sound in ((jpeg, encoded(photo(1))), (png, encoded(photo(1), "PNG"))):
        assert (decode(content) == decode(sound)).all()
        assert inspect(content, 10**8) == inspect(sound, 10**8)


def test_orientation_behind_a_pngs_pixels_counts():
    content = encoded(PICTURE, "PNG")
    block = hostile.exif_block(0, 0, 6)[6:]
    content = content[:-12] + hostile.png_chunk(b"eXIf", block) + content[-12:]
    assert decode(content).shape == (60, 40, 3)
    assert inspect(content, 10**8).height_px == 60


def test_orientation_as_imagemagick_and_xmp_write_it():
    info = PngImagePlugin.PngInfo()
    block = hostile.exif_block(0, 0, 8)
    info.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n")
    assert decode(encoded(PICTURE, "PNG", pnginfo=info)).shape == (60, 40, 3)
    packet = b'<x tiff:Orientation="6"/>'
    assert decode(encoded(PICTURE, "JPEG", xmp=packet)).shape == (60, 40, 3)
    assert decode(encoded(PICTURE, "WEBP", xmp=packet)).shape == (60, 40, 3)
