"""Sound pictures of every format and layout, and ways to harm their bytes."""

from __future__ import annotations

import io
import random

import numpy as np
from PIL import Image

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "MPO")
MODES = ("1", "L", "P", "RGBA", "CMYK", "LA", "F", "I", "I;16")


def sound_files() -> list[bytes]:
    """One picture in every format and pixel layout that goes together, with EXIF and without, where it can have any."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    files = []
    for kind in KINDS:
        for mode in ("RGB", *MODES):
            for options in ({}, {"exif": exif}, {"progressive": True}):
                buffer = io.BytesIO()
                try:
                    picture.convert(mode).save(buffer, kind, **options)
                except (OSError, ValueError, KeyError):
                    continue  # a format that has no such pixels
                files.append(buffer.getvalue())
    return sorted(set(files))


def harmed(content: bytes, rng: random.Random) -> bytes:
    harm = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        place = rng.randrange(min(len(harm), rng.choice([64, 200, 10**6])))
        way = rng.random()
        if way < 0.4:
            harm[place] ^= 1 << rng.randrange(8)
        elif way < 0.6:
            harm[place] = rng.randrange(256)
        elif way < 0.75:
            del harm[max(1, place) :]
        elif way < 0.9:
            harm[place:place] = rng.randbytes(4)
        else:
            harm[place : place + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
    return bytes(harm)
