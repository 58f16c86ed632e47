"""Which images to label next: uncertain ones that differ from each other, some unlike anything, some at random.

Uncertain is a small margin between the two likeliest classes (Scheffer et al. 2001, "Active Hidden Markov Models for
Information Extraction"). Of `POOLED` times as many as are needed, k-means++ (Arthur & Vassilvitskii 2007) draws those
that differ, each in proportion to its uncertainty and its squared distance to the ones drawn before. (BADGE, Ash et al.
2020, and core-sets, Sener & Savarese 2018, needed more labels: docs/labelling.md.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tasks.pool.familiar import squared_distances

UNSURE, UNFAMILIAR, RANDOM = "unsure between", "unlike anything", "random"
REASONS = (UNSURE, UNFAMILIAR, RANDOM)
POOLED = 2


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a choice is made by, of N images: a margin and a distance each, float32 [N], a place in the space of
    features, float32 [N, K], and a uniform number that depends on the image and the seed alone, [N]."""

    margin: np.ndarray  # between the probabilities of the two likeliest classes
    distance: np.ndarray  # squared, to the nearest labelled image
    place: np.ndarray
    chance: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How many images are wanted for each reason, of a batch of `count`."""

    unsure: int
    unfamiliar: int
    random: int


def shares_of(count: int, unfamiliar: float, random: float) -> Shares:
    """Divides a batch; where the two shares come to more than all, the one at random is whole."""
    drawn = min(count, round(count * random))
    far = min(count - drawn, round(count * unfamiliar))
    return Shares(unsure=count - drawn - far, unfamiliar=far, random=drawn)


def choose(scores: Scores, shares: Shares, rng: np.random.Generator, spare: float = 0) -> list[tuple[int, str]]:
    """(image, reason) of each chosen image, each once: the random ones first, whose draw nothing else may shape.

    Args:
        spare: share of each reason's count that is drawn besides, after the rest, for a caller that leaves some out.
    """
    free = np.ones(len(scores.margin), bool)
    chosen: list[tuple[int, str]] = []
    wanted = ((RANDOM, shares.random), (UNFAMILIAR, shares.unfamiliar), (UNSURE, shares.unsure))
    for share in (1, spare):
        for reason, count in wanted:
            left = np.flatnonzero(free)
            found = left[_best(reason, scores, left, math.ceil(share * count), rng)]
            free[found] = False
            chosen += [(int(image), reason) for image in found]
    return chosen


def _best(reason: str, scores: Scores, left: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Places in `left` of the images that are chosen for one reason."""
    if reason == RANDOM:
        return np.argsort(scores.chance[left], kind="stable")[:count]
    worth = scores.distance[left] if reason == UNFAMILIAR else 1 - scores.margin[left]
    best = np.argsort(-worth, kind="stable")[: POOLED * count]
    return best[spread(scores.place[left[best]], worth[best], count, rng)]


def spread(places: np.ndarray, worth: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """Up to `count` rows of [N, K] as k-means++ draws them in order, weighted by `worth`, which is at least 0;
    equal places come last."""
    worth = worth.astype(np.float64) + 1e-9
    nearest = np.ones(len(places))
    left = np.ones(len(places), bool)
    order: list[int] = []
    while len(order) < min(count, len(places)):
        weights = np.where(left, worth * nearest, 0)
        if weights.sum() <= 0:
            weights = np.where(left, worth, 0)
        row = int(rng.choice(len(places), p=weights / weights.sum()))
        left[row] = False
        distances = squared_distances(places, places[row : row + 1])[:, 0]
        nearest = distances if not order else np.minimum(nearest, distances)
        order.append(row)
    return order
