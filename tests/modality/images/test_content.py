"""The decoder: every odd file gives upright 8-bit RGB, or a reason."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tasks.errors import DecodeError
from tasks.modality.images.content import decode
from tests import photos


@pytest.mark.parametrize(
    "content",
    [
        photos.encoded(photos.photo(1)),
        photos.encoded(photos.photo(1).convert("L")),
        photos.sixteen_bit_png(),
        photos.palette_png(),
        photos.cmyk_jpeg(),
        photos.encoded(photos.photo(1), "WEBP"),
        photos.encoded(photos.photo(1), "GIF", save_all=True, append_images=[photos.photo(2)]),
        photos.encoded(photos.photo(1).convert("1"), "PNG"),
        photos.encoded(photos.photo(1).convert("RGBA"), "PNG"),
    ],
    ids=["jpeg", "grey", "16-bit", "palette", "cmyk", "webp", "animated", "1-bit", "alpha"],
)
def test_odd_images_become_rgb(content: bytes):
    pixels = decode(content)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.std() > 10


def test_an_image_on_its_side_is_turned_upright():
    assert decode(photos.turned_jpeg((60, 40))).shape == (60, 40, 3)


def test_16_bits_are_scaled_not_clipped():
    pixels = decode(photos.sixteen_bit_png())
    assert pixels.min() == 0
    assert pixels.max() == 255
    assert 100 < pixels.mean() < 155


def test_transparency_lies_over_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (decode(photos.encoded(clear, "PNG")) == 255).all()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"hello, I am a text", "not an image"),
        (photos.truncated_jpeg(), "truncated or damaged"),
        (photos.encoded(photos.photo(1), "PNG")[:-40], "truncated or damaged"),
    ],
)
def test_what_is_no_image_says_so(content: bytes, says: str):
    with pytest.raises(DecodeError, match=says):
        decode(content)


def test_a_bomb_is_refused_by_its_header():
    with pytest.raises(DecodeError, match="20000x20000 pixels are more than"):
        decode(photos.encoded(Image.new("1", (20_000, 20_000)), "PNG"))


def test_a_large_jpeg_is_decoded_as_far_as_is_enough():
    picture = photos.photo(1, size=(800, 600))
    jpeg, png = photos.encoded(picture, quality=95), photos.encoded(picture, "PNG")
    assert decode(jpeg).shape == decode(jpeg, enough_px=301).shape == (600, 800, 3)
    half = decode(jpeg, enough_px=300)
    assert half.shape == (300, 400, 3)
    assert np.abs(half.astype(int) - np.asarray(picture.resize((400, 300), Image.Resampling.BOX))).mean() < 3
    assert decode(jpeg, enough_px=70).shape == (75, 100, 3)
    assert decode(png, enough_px=70).shape == (600, 800, 3)
    assert decode(photos.turned_jpeg((600, 400)), enough_px=200).shape == (300, 200, 3)
