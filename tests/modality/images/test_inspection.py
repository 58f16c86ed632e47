"""Whatever a file holds, its inspection is a finding and never an exception."""

from __future__ import annotations

import random

import pytest
from PIL import Image

from tasks.modality.images.content import decode
from tasks.modality.images.inspection import Inspection, inspect
from tests import hostile
from tests.damage import harmed, sound_files
from tests.photos import encoded, photo

FILES = 5000
PARTS = 4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(PARTS))
def test_no_harmed_file_escapes(part, capfd):
    """Truncated, bit-flipped, in every format and pixel layout, with EXIF and without."""
    rng, files, faults = random.Random(part), sound_files(), 0
    for _ in range(FILES // PARTS):
        found = inspect(harmed(rng.choice(files), rng), 2_000_000)
        assert isinstance(found, Inspection)
        faults += found.fault is not None
        assert found.fault is None or found.fault.encode()
    assert 0.2 < faults / (FILES // PARTS) < 0.95


def test_a_sound_picture_with_damaged_exif_is_no_fault():
    content = hostile.jpeg_with_exif(b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert inspect(content, 10**8) == inspect(encoded(photo(1)), 10**8)


def test_a_png_with_damaged_pixels_is_a_fault_with_its_reason():
    content = bytearray(encoded(photo(1, size=(200, 150)), "PNG"))
    content[len(content) // 2] ^= 0xFF
    assert "truncated or damaged" in (inspect(bytes(content), 10**8).fault or "")


def test_what_surprises_is_a_fault_of_this_file(monkeypatch):
    def broken(*args: object) -> Image.Image:
        raise RecursionError("deep")

    monkeypatch.setattr("tasks.modality.images.inspection.grey_thumbnail", broken)
    assert inspect(encoded(photo(1)), 10**8).fault == "the image can't be read: RecursionError"
    assert decode(encoded(photo(1))).shape == (36, 48, 3)
