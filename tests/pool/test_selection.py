"""Uncertain images that differ, some unlike anything labelled, some at random."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.pool.familiar import fit_familiar, squared_distances
from tasks.pool.selection import RANDOM, UNFAMILIAR, UNSURE, Scores, Shares, choose, shares_of, spread


def scores_of(count: int = 300, seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    return Scores(
        margin=rng.random(count).astype(np.float32),
        distance=rng.random(count).astype(np.float32),
        place=rng.normal(size=(count, 4)).astype(np.float32),
        chance=rng.random(count),
    )


@pytest.mark.parametrize(
    ("count", "unfamiliar", "random", "expected"),
    [(200, 0.1, 0.1, (160, 20, 20)), (10, 0.8, 0.5, (0, 5, 5)), (1, 0.1, 0.1, (1, 0, 0)), (7, 0, 1, (0, 0, 7))],
)
def test_a_batch_is_divided_without_a_rest(count: int, unfamiliar: float, random: float, expected: tuple[int, ...]):
    assert tuple(vars(shares_of(count, unfamiliar, random)).values()) == expected


def test_each_reason_takes_the_images_that_it_is_for():
    scores, shares = scores_of(), Shares(unsure=20, unfamiliar=10, random=15)
    chosen = choose(scores, shares, np.random.default_rng(1))
    found = {reason: [image for image, why in chosen if why == reason] for reason in (UNSURE, UNFAMILIAR, RANDOM)}
    assert {reason: len(images) for reason, images in found.items()} == {UNSURE: 20, UNFAMILIAR: 10, RANDOM: 15}
    assert len({image for image, _ in chosen}) == 45
    assert scores.margin[found[UNSURE]].max() < 0.35  # of the 60 smallest of 275
    assert scores.distance[found[UNFAMILIAR]].min() > 0.85
    assert sorted(found[RANDOM]) == sorted(np.argsort(scores.chance)[:15])  # whatever their scores are


def test_the_same_seed_gives_the_same_batch_and_a_small_pool_is_given_whole():
    scores, shares = scores_of(9), Shares(unsure=20, unfamiliar=10, random=15)
    first = choose(scores, shares, np.random.default_rng(1))
    assert first == choose(scores, shares, np.random.default_rng(1))
    assert sorted(image for image, _ in first) == list(range(9))


def test_what_is_drawn_besides_takes_nothing_from_the_rest():
    scores, shares = scores_of(50), Shares(unsure=20, unfamiliar=10, random=15)
    plain = choose(scores, shares, np.random.default_rng(1))
    more = choose(scores, shares, np.random.default_rng(1), spare=0.5)
    assert more[:45] == plain
    assert sorted(image for image, _ in more) == list(range(50))


def test_what_lies_in_one_place_is_drawn_once_before_the_rest():
    places = np.repeat(np.eye(5, dtype=np.float32) * 10, [40, 3, 3, 3, 1], axis=0)
    order = spread(places, np.ones(50), 50, np.random.default_rng(0))
    assert sorted(order) == list(range(50))
    assert len({tuple(places[row]) for row in order[:5]}) == 5


def test_distance_is_near_nothing_for_a_labelled_image_and_large_for_what_has_nothing_in_common():
    rng = np.random.default_rng(0)
    labelled = np.zeros((300, 100), np.float16)
    labelled[:, :20] = rng.random((300, 20)) + 0.2
    stranger = np.zeros((1, 100), np.float16)
    stranger[:, 60:] = 1
    familiar = fit_familiar(labelled)
    same, other, far = (
        familiar.distances(*familiar.place(rows)) for rows in (labelled[:10], labelled[:10] * 1.05, stranger)
    )
    assert max(same.max(), other.max()) < 0.01 < 0.5 < far[0]


def test_squared_distances_are_those_of_every_pair():
    one, other = np.random.default_rng(0).random((2, 6, 3)).astype(np.float32)
    expected = ((one[:, None] - other) ** 2).sum(axis=2)
    np.testing.assert_allclose(squared_distances(one, other), expected, atol=1e-5)
