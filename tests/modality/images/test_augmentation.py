"""Policies: data, deterministic for each (image, view), and no way to run code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import ConfigError
from tasks.modality.images.augmentation import POLICIES_FOLDER, Augmenter, load_policy
from tests.photos import photo

PIXELS = np.asarray(photo(5, size=(60, 40)))


def test_the_default_view_is_the_mirrored_image():
    augmenter = Augmenter(load_policy("flip", 1))
    assert (augmenter.view(PIXELS, "ab", 0) == PIXELS).all()
    assert (augmenter.view(PIXELS, "ab", 1) == PIXELS[:, ::-1]).all()


@pytest.mark.parametrize("name", sorted(file.stem for file in POLICIES_FOLDER.glob("*.json")))
def test_a_view_depends_on_image_and_number_alone(name: str):
    policy = load_policy(name, 3)
    first = Augmenter(policy)
    views = [first.view(PIXELS, "ab", view) for view in (1, 2, 3)]
    second = Augmenter(policy)  # another order, another pipeline
    again = [second.view(PIXELS, "ab", view) for view in (3, 2, 1)][::-1]
    assert all((one == other).all() for one, other in zip(views, again, strict=True))
    if name != "flip":
        assert not np.array_equal(views[0], views[1])
        assert not np.array_equal(views[0], first.view(PIXELS, "cd", 1))


def test_policies_differ_in_their_digest():
    assert load_policy("flip", 1).digest() != load_policy("mild", 1).digest()
    assert load_policy("mild", 1).digest() == load_policy("mild", 4).digest()  # views are rows of one key


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"transform": {"__class_fullname__": "os.system", "p": 1}}, "only albumentations' own"),
        ({"transform": {"__class_fullname__": "Compose", "transforms": [{"__class_fullname__": "Lambda"}]}}, "Lambda"),
        ({"steps": []}, "is no pipeline"),
        ([1], "is no pipeline"),
    ],
)
def test_a_file_that_is_no_plain_pipeline_is_refused(tmp_path: Path, tree: object, says: str):
    file = tmp_path / "own.json"
    file.write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=says):
        load_policy(str(file), 1)


def test_an_unknown_argument_is_an_error_not_a_warning(tmp_path: Path):
    tree = json.loads((POLICIES_FOLDER / "flip.json").read_text())
    tree["transform"]["transforms"][0]["strenght"] = 3
    file = tmp_path / "own.json"
    file.write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match="can't build the pipeline"):
        Augmenter(load_policy(str(file), 1))


def test_an_unknown_policy_names_the_known_ones():
    with pytest.raises(ConfigError, match="flip, mild, strong"):
        load_policy("wild", 1)
