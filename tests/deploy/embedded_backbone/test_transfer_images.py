"""Transfer images: right shape, made again by the same seed, and different from one another."""

import cv2
import numpy as np
import pytest

from deploy.embedded_backbone import transfer_images


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), (400, 300)) for _ in range(4)]


def test_same_seed_gives_same_images(photos):
    first = transfer_images.render(np.random.default_rng(5), photos, 24, 64, 0.5)
    again = transfer_images.render(np.random.default_rng(5), photos, 24, 64, 0.5)
    assert first.shape == (24, 64, 64, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)


def test_images_differ(photos):
    images = transfer_images.render(np.random.default_rng(6), photos, 40, 32, 0.5)
    assert len(np.unique(images.reshape(40, -1), axis=0)) == 40


@pytest.mark.parametrize("formula", dict.fromkeys(transfer_images.FORMULAE), ids=lambda formula: formula.__name__)
def test_formula_makes_an_image_with_structure(formula):
    image = formula(np.random.default_rng(7), 48)
    assert image.shape == (48, 48, 3)
    assert np.isfinite(image).all()
    assert image.std() > 0.01


def test_photo_is_shrunk_to_the_short_side(tmp_path):
    cv2.imwrite(str(tmp_path / "wide.jpg"), np.zeros((600, 900, 3), np.uint8))
    assert transfer_images.read_photo(tmp_path / "wide.jpg").shape == (288, 432, 3)


def test_broken_photo_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        transfer_images.read_photo(tmp_path / "broken.jpg")


def test_folder_without_photos_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no photographs"):
        transfer_images.list_photos(tmp_path)
