"""HEIC, as iPhones write it. The files (120 x 80 pixels, a red corner) come from x265, which is not at hand here."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import DecodeError
from tasks.modality.images import content
from tasks.modality.images.content import can_read_heif, decode, readable_suffixes
from tasks.modality.images.inspection import inspect
from tests.damage import harmed

FOLDER = Path(__file__).parent
PHONE = (FOLDER / "phone.heic").read_bytes()
RED = (250, 30, 30)


def is_red(pixels: np.ndarray) -> bool:
    return bool(np.abs(pixels.astype(int) - RED).max() < 12)


def test_it_is_read():
    pixels = decode(PHONE)
    assert pixels.shape == (80, 120, 3)
    assert is_red(pixels[:25, :35])
    assert not is_red(pixels[-25:, -35:])


def test_it_is_turned_once_by_the_property_of_the_file():
    pixels = decode((FOLDER / "turned.heic").read_bytes())  # `irot`: a quarter, clockwise
    assert pixels.shape == (120, 80, 3)
    assert is_red(pixels[:35, -25:])
    found = inspect((FOLDER / "turned.heic").read_bytes(), 10**6)
    assert (found.format, found.width_px, found.height_px, found.fault) == ("HEIF", 80, 120, None)


def test_transparency_lies_over_white():
    assert decode((FOLDER / "see_through.heic").read_bytes()).shape == (80, 120, 3)


def test_its_pixels_are_bounded_by_its_header():
    with pytest.raises(DecodeError, match=r"120x80 pixels are more than the 9000 allowed by ingest\.max_pixels"):
        decode(PHONE, max_pixels=9000)


@pytest.mark.parametrize("seed", range(20))
def test_damage_is_a_reason_or_an_image(seed: int):
    rng = random.Random(seed)
    for _ in range(50):
        found = inspect(harmed(PHONE, rng), 10**6)
        assert found.fault or found.width_px * found.height_px <= 10**6


def test_a_name_says_that_it_can_be_read():
    assert {".heic", ".jpg"} <= readable_suffixes()


def test_without_its_package_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)  # as if it was not installed
    can_read_heif.cache_clear()
    try:
        with pytest.raises(DecodeError, match="takes the package pi-heif: install headstart's extra `heic`"):
            content.decode(PHONE)
    finally:
        can_read_heif.cache_clear()
