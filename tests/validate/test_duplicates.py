import time
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from PIL import ImageEnhance, ImageOps

from tasks.modality.images import inspection
from tasks.storage.assignments import no_assignments
from tasks.validate import duplicates, neighbours
from tasks.validate.duplicates import find_groups
from tasks.validate.neighbours import LEAST_COMPARED, near_in_features, near_pairs
from tests.photos import encoded, photo

SIZE = (320, 240)


def textured(seed):
    return photo(seed, size=SIZE)


COPIES = {
    "recompressed": lambda image: (image, {"quality": 30}),
    "resized": lambda image: (image.resize((160, 120)), {}),
    "cropped": lambda image: (image.crop((10, 5, 312, 236)), {}),
    "mirrored": lambda image: (ImageOps.mirror(image), {}),
    "brighter": lambda image: (ImageEnhance.Brightness(image).enhance(1.3), {}),
}


def catalogue(folder, pictures):
    """A frame of sha256 (here: the name), uri and phash for encoded pictures by name."""
    rows = []
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
        rows.append((name, str(folder / name), inspection.inspect(content, 10**8).phash))
    return pd.DataFrame(rows, columns=["sha256", "uri", "phash"])


def groups_of(table, assignments=None):
    groups = find_groups(table, no_assignments() if assignments is None else assignments)
    return dict(zip(table["sha256"], groups, strict=True))


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_in_the_group_of_its_original(tmp_path, how):
    picture, options = COPIES[how](textured(1))
    others = {f"other{n}": encoded(textured(n)) for n in range(2, 12)}
    table = catalogue(tmp_path, {"original": encoded(textured(1)), "copy": encoded(picture, **options)} | others)
    groups = groups_of(table)
    assert groups["copy"] == groups["original"] == "copy"
    assert len(set(groups.values())) == 11


def test_a_new_copy_joins_the_group_that_is_known(tmp_path):
    first = catalogue(tmp_path, {f"n{n}": encoded(textured(n)) for n in range(6)})
    known = first.assign(group=list(groups_of(first).values()), split="test", run_id="r1")
    both = catalogue(
        tmp_path, {f"n{n}": encoded(textured(n)) for n in range(6)} | {"a copy": encoded(textured(3), quality=40)}
    )
    assert groups_of(both, known) == groups_of(first) | {"a copy": "n3"}


def test_groups_that_a_new_image_bridges_become_one(tmp_path):
    pictures = {"a": encoded(textured(1)), "b": encoded(textured(1), quality=60), "c": encoded(textured(2))}
    table = catalogue(tmp_path, pictures)
    known = table.head(1).assign(group="a", split="train", run_id="r1")
    apart = pd.concat([known, known.assign(sha256="b", group="b")])
    joined = catalogue(tmp_path, pictures | {"d": encoded(textured(1), quality=50)})
    assert groups_of(joined, apart) == {"a": "a", "b": "a", "c": "c", "d": "a"}


def test_known_groups_of_several_images_stay_whole(tmp_path):
    pictures = {f"n{n}": encoded(textured(n // 2), quality=90 - 30 * (n % 2)) for n in range(8)}
    table = catalogue(tmp_path, pictures)
    first = groups_of(table)
    assert list(first.values()) == ["n0", "n0", "n2", "n2", "n4", "n4", "n6", "n6"]
    known = table.sample(frac=1, random_state=2)
    known = known.assign(group=known["sha256"].map(first), split="train", run_id="r1")
    later = catalogue(tmp_path, pictures | {"n8": encoded(textured(2), quality=40), "n9": encoded(textured(9))})
    assert groups_of(later, known) == first | {"n8": "n4", "n9": "n9"}


def test_groups_are_the_same_however_few_pairs_are_held_at_a_time(tmp_path, monkeypatch):
    pictures = {f"n{n}": encoded(textured(n // 3), quality=90 - 20 * (n % 3)) for n in range(12)}
    table = catalogue(tmp_path, pictures)
    whole = groups_of(table)
    monkeypatch.setattr(duplicates, "HELD_PAIRS", 2)
    monkeypatch.setattr(neighbours, "COSINES", 5)
    assert groups_of(table) == whole
    assert len(set(whole.values())) == 4


def test_an_image_that_went_missing_is_no_copy(tmp_path):
    table = catalogue(tmp_path, {"a": encoded(textured(1)), "b": encoded(textured(1), quality=60)})
    (tmp_path / "a").unlink()
    assert groups_of(table) == {"a": "a", "b": "b"}


def random_hashes(count, seed=0):
    halves = np.random.default_rng(seed).normal(0, 12, (count, 2, 64))
    halves[:, 1] = halves[:, 0] + np.random.default_rng(seed + 1).normal(0, 3, (count, 64))
    halves[:, :, 0] = 0
    return halves.clip(-127, 127).astype(np.int8)


def test_many_images_are_compared_without_comparing_all_pairs():
    hashes = random_hashes(20_000)
    noise = np.random.default_rng(5).integers(-2, 3, (500, 2, 64), dtype=np.int8)
    hashes[-500:] = hashes[:500] + noise
    started = time.perf_counter()
    pairs = near_pairs(hashes, np.ones(len(hashes), bool))
    assert time.perf_counter() - started < 60
    found = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    planted = {(n, 19_500 + n) for n in range(500)}
    assert len(found & planted) >= 490
    assert len(found - planted) < 20


def test_a_search_holds_the_comparisons_of_one_block_at_a_time():
    rows = np.random.default_rng(4).normal(size=(40_000, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    tracemalloc.start()
    try:
        found = list(neighbours._search(rows, rows, lambda: np.inf))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) >= 200  # lists; of all rows the places of all lists are 64 MB
    assert peak_bytes < 40e6


def test_only_new_images_are_compared():
    hashes = random_hashes(200)
    hashes[100:] = hashes[:100]
    new = np.zeros(200, bool)
    new[[3, 150]] = True
    pairs = near_pairs(hashes, new)
    assert set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == {(3, 103), (50, 150)}
    assert len(near_pairs(hashes, np.zeros(200, bool))) == 0


def test_of_images_that_are_all_alike_only_the_likest_pairs_are_compared():
    rng = np.random.default_rng(0)
    features = (1 + 0.05 * rng.normal(size=(400, 32))).astype(np.float16)
    features[7] = features[200]  # the one copy
    pairs = near_in_features(features, np.ones(400, bool))
    assert len(pairs.first) == LEAST_COMPARED
    assert (7, 200) in set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def test_the_likest_pairs_are_those_of_all_pairs_however_many_are_alike():
    count = 3000
    features = (1 + 0.05 * np.random.default_rng(0).normal(size=(count, 32))).astype(np.float16)
    unit = features.astype(np.float64) / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    cosine = np.triu(unit @ unit.T, k=1)
    pairs = near_in_features(features, np.ones(count, bool))
    likest = np.sort(cosine.ravel())[-len(pairs) // 2 :]  # each pair is given plain and mirrored
    assert len(pairs) == count // 2
    assert np.allclose(np.sort(pairs.cosine[~pairs.mirrored]), likest, atol=1e-6)
    assert np.allclose(pairs.cosine, cosine[pairs.first, pairs.second], atol=1e-6)
