"""The heat as a picture: of the photograph's proportions, strongest where the heat is, clear elsewhere."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tasks.modality.images.heat_picture import SIDE_PX, heat_picture


def opacity(heat: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(heat_picture(heat, width_px, height_px))).convert("RGBA"))[..., 3]


@pytest.mark.parametrize(("sides", "expected"), [((400, 300), (72, 96)), ((100, 5000), (96, 2)), ((9, 9), (96, 96))])
def test_it_has_the_proportions_of_the_photograph(sides: tuple[int, int], expected: tuple[int, int]):
    assert opacity(np.ones((7, 7)), *sides).shape == expected


def test_it_is_opaque_where_the_heat_is_and_clear_where_there_is_none():
    heat = np.full((7, 7), -1.0)
    heat[1, 5] = 2.0
    found = opacity(heat, 500, 500)
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert abs(row - 1.5 / 7 * SIDE_PX) < 4
    assert abs(column - 5.5 / 7 * SIDE_PX) < 4
    assert found.max() > 150
    assert found[SIDE_PX // 2 :].max() == 0


def test_noise_is_not_drawn_as_evidence():
    assert opacity(np.full((7, 7), 1e-6), 100, 100).max() == 0
    assert opacity(np.full((7, 7), -3.0), 100, 100).max() == 0
