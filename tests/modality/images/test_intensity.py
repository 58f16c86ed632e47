"""Deep grey is scaled by its format's depth, so that frames of one camera stay comparable."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tasks.errors import DecodeError
from tasks.modality.images.content import decode
from tests.hostile import tiff
from tests.photos import encoded


def frame(top: int) -> Image.Image:
    return Image.fromarray(np.linspace(0, top, 64 * 48).reshape(48, 64).astype(np.uint16))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_a_dark_frame_of_a_16_bit_camera_stays_dark_beside_a_bright_one(kind):
    bright, dark, black = (decode(encoded(frame(top), kind)).mean() for top in (65535, 6553, 200))
    assert 126 < bright < 129
    assert 11 < dark < 14
    assert black == 0


def test_12_bits_of_a_tiff_keep_their_4096_levels():
    pixels = np.linspace(0, 4095, 64 * 48).astype(int)
    packed = np.zeros(len(pixels) * 3 // 2, np.uint8)
    packed[0::3], packed[2::3] = pixels[0::2] >> 4, pixels[1::2] & 255
    packed[1::3] = (pixels[0::2] & 15) << 4 | pixels[1::2] >> 8
    tags = [(256, 4, 1, 64), (257, 4, 1, 48), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    content = tiff([*tags, (278, 4, 1, 48), (273, 4, 1, 8), (279, 4, 1, len(packed))], packed.tobytes())
    found = decode(content)
    assert len(np.unique(found)) == 256
    assert (found.min(), found.max()) == (0, 255)


def test_floating_point_from_0_to_1_is_understood():
    grey = Image.fromarray(np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64))
    assert 126 < decode(encoded(grey, "TIFF")).mean() < 129


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.full((8, 8), 180, np.float32), "reach 180, and it can't be known which one is white"),
        (np.full((8, 8), np.nan, np.float32), "can't be known which one is white"),
        (np.full((8, 8), 70_000, np.int32), "32 bits, and it can't be known which one is white: save it with 8 or 16"),
    ],
)
def test_values_of_an_unknown_range_are_refused(values, says):
    with pytest.raises(DecodeError, match=says):
        decode(encoded(Image.fromarray(values), "TIFF"))
