"""Images with a few bytes changed, cut or added are decoded or refused: no decoder's own exception gets through."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from deploy.serving.limits import Limits
from deploy.serving.requests import decode_image
from tasks.errors import RequestError

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "MPO")
MODES = ("1", "L", "P", "RGBA", "CMYK", "LA", "F", "I")
LIMITS = Limits(max_pixels=2_000_000)


def sound() -> list[bytes]:
    """One picture in every format and pixel layout that goes together."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    files = []
    for kind in KINDS:
        for mode in ("RGB", *MODES):
            buffer = io.BytesIO()
            try:
                picture.convert(mode).save(buffer, kind)
            except (OSError, ValueError, KeyError):
                continue  # a format that has no such pixels
            files.append(buffer.getvalue())
    return files


def harmed(content: bytes, rng: random.Random) -> bytes:
    harm = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        place = rng.randrange(min(len(harm), rng.choice([64, 200, 10**6])))
        way = rng.random()
        if way < 0.6:
            harm[place] = rng.randrange(256)
        elif way < 0.75:
            del harm[max(1, place) :]
        elif way < 0.9:
            harm[place:place] = rng.randbytes(4)
        else:
            harm[place : place + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
    return bytes(harm)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
def test_damaged_images_are_decoded_or_refused(seed, capfd):
    rng, files, outcomes = random.Random(seed), sound(), set()
    for _ in range(1500):
        content = harmed(rng.choice(files), rng)
        try:
            pixels = decode_image(content, LIMITS)
        except RequestError as exc:
            outcomes.add(exc.http_status)
            continue
        outcomes.add(200)
        assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
    assert outcomes == {200, 400, 413}
