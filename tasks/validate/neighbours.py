"""Pairs of similar images by perceptual hash or by features, without comparing all pairs of a million images.

Beyond some thousand images the vectors are kept in an inverted file (Jegou et al. 2011, "Product Quantization for
Nearest Neighbor Search"): each is in the list of its nearest pivot, and an image is only compared with the lists of its
nearest pivots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tasks.storage.rows import Rows

# Measured on 3,409 photographs of clothing with 717 altered copies (four seeds of tests/dirty.py), and on 1,100 of hand
# signs: the hashes of a copy have a cosine of at least 0.858, and so do about 800 pairs of different photographs.
MIN_COSINE = 0.85
MIN_FEATURE_COSINE = 0.88
LEAST_COMPARED = 1000  # pairs of similar features that are kept, or half the number of new images if that is more
NEIGHBOURS = 16  # nearest candidates for each image and variant
EXHAUSTIVE_COMPARISONS = 200_000_000  # below, an inverted file costs more than it saves
PROBES = 8
BLOCK = 4096
COSINES = 1 << 24  # that are held at a time: 64 MB, and twice that for the places of each that is large enough


Part = tuple[np.ndarray, np.ndarray, np.ndarray]  # of pairs: rows, int64 [P], twice; cosines, float32 [P]


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows: `first` < `second`, int64 [P]; whether one is mirrored, bool [P]; cosine, float32 [P]."""

    first: np.ndarray
    second: np.ndarray
    mirrored: np.ndarray
    cosine: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def where(self, mask: np.ndarray) -> Pairs:
        """The pairs selected by `mask`, bool [P]."""
        return Pairs(self.first[mask], self.second[mask], self.mirrored[mask], self.cosine[mask])


def near_pairs(hashes: np.ndarray, new: np.ndarray, min_cosine: float = MIN_COSINE) -> Pairs:
    """Pairs of images with similar hashes; at least one of each pair is new.

    Args:
        hashes: int8 [N, 2, 64], see `tasks.modality.images.inspection.perceptual_hash`.
        new: bool [N].
    """
    if not new.any():
        return _gather([])
    halves = hashes[:, :, 1:].astype(np.float32)  # without the mean, which is always 0
    # Scaling by the variation of each frequency removes what images of one kind have in common.
    scale = halves[:, 0].std(axis=0) + 1.0
    mirror = np.where(np.arange(1, 64) % 2, -1, 1)
    whole, inner = (_unit(halves[:, half] / scale) for half in (0, 1))
    found = []
    for mirrored, flip in ((False, 1), (True, mirror)):
        # A crop resembles the inner part of its original; either of the two may be the crop.
        for queries, index in ((whole[new] * flip, whole), (inner[new] * flip, whole), (whole[new] * flip, inner)):
            found += [
                (np.flatnonzero(new)[rows], others, np.full(len(rows), mirrored), cosine)
                for rows, others, cosine in _search(queries, index, lambda: min_cosine)
            ]
    return _gather(found)


def near_in_features(features: np.ndarray | Rows, new: np.ndarray, min_cosine: float = MIN_FEATURE_COSINE) -> Pairs:
    """Pairs of images with similar features, [N, D]; at least one of each pair is new.

    Each pair is given plain and mirrored, because features hardly differ between the two. Where all images are of one
    kind (hands before a wall), only the most similar pairs are kept: comparing the pixels of a pair takes 1 ms.
    """
    places = np.flatnonzero(new)
    if not len(places):
        return _gather([])
    most = max(LEAST_COMPARED, len(places) // 2)
    found = _MostSimilar(most, min_cosine)
    index = _UnitRows(features, np.arange(len(features)))
    for rows, others, cosine in _search(_UnitRows(features, places), index, lambda: found.least):
        found.add(places[rows], others, cosine)
    first, second, cosine = found.pairs()
    pairs = _gather(
        [(first, second, np.full(len(first), mirrored), cosine) for mirrored in (False, True)], both_ways=True
    )
    return pairs.where(np.argsort(np.argsort(-pairs.cosine, kind="stable")) < most)


def nearest(features: np.ndarray | Rows, rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The other images whose features are most similar to those of some rows, in one pass over all.

    Args:
        features: [N, D].
        rows: int [R].
        count: how many for each row, K; fewer where there are no more.

    Returns:
        Rows, int [R, K], and cosines, float32 [R, K], the most similar first.
    """
    queries = _unit(features[rows].astype(np.float32))
    found, cosines = np.empty((len(rows), 0), np.int64), np.empty((len(rows), 0), np.float32)
    for start in range(0, len(features), BLOCK):
        block = _unit(features[start : start + BLOCK].astype(np.float32))
        others = np.arange(start, start + len(block))
        similar = np.where(others == rows[:, None], -2, queries @ block.T)  # an image is no neighbour of its own
        cosines = np.concatenate([cosines, similar], axis=1)
        found = np.concatenate([found, np.broadcast_to(others, similar.shape)], axis=1)
        best = np.argsort(-cosines, axis=1, kind="stable")[:, : min(count, len(features) - 1)]
        found, cosines = np.take_along_axis(found, best, axis=1), np.take_along_axis(cosines, best, axis=1)
    return found, cosines


class _MostSimilar:
    """Those pairs of two rows that are among the `most` most similar of all, and at most four times as many.

    Where all images are of one kind, nearly all pairs are similar: of a million images that would be 10^8.
    """

    def __init__(self, most: int, least: float) -> None:
        self.least = least  # the cosine from which on a pair is of interest; it rises
        self._most, self._count = most, 0
        self._parts: list[Part] = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]

    def add(self, first: np.ndarray, second: np.ndarray, cosine: np.ndarray) -> None:
        self._keep((first, second, cosine), first != second)
        if self._count > 4 * self._most:
            first, second, cosine = self.pairs()
            # Twice as many as are asked for, because a pair is found from both of its rows.
            self.least = float(np.partition(cosine, -2 * self._most)[-2 * self._most])
            self._parts, self._count = [], 0
            self._keep((first, second, cosine), cosine >= self.least)

    def _keep(self, part: Part, mask: np.ndarray) -> None:
        self._parts.append((part[0][mask], part[1][mask], part[2][mask]))
        self._count += int(mask.sum())

    def pairs(self) -> Part:
        first, second, cosine = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        return first, second, cosine


class _UnitRows:
    """Some rows of an array, in memory or on disk, as float32 of length 1."""

    def __init__(self, rows: np.ndarray | Rows, places: np.ndarray) -> None:
        self._rows, self._places = rows, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, wanted: np.ndarray | slice) -> np.ndarray:
        return _unit(self._rows[self._places[wanted]].astype(np.float32))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _search(
    queries: np.ndarray | _UnitRows, index: np.ndarray | _UnitRows, least: Callable[[], float]
) -> Iterator[Part]:
    """(query rows, index rows, cosines) of pairs with a cosine of at least `least()`, of unit vectors [Q, D], [N, D].

    `least` is asked for each block, as it may rise.
    """
    lists = 1 if len(queries) * len(index) <= EXHAUSTIVE_COMPARISONS else int(np.sqrt(len(index)))
    pivots = index[
        np.arange(0, len(index), max(len(index) // lists, 1))[:lists]
    ]  # rows are sorted by digest, so this is a random sample
    list_of = np.concatenate([(block @ pivots.T).argmax(axis=1) for block in _blocks(index)])
    probes = min(PROBES, lists)
    probed = np.concatenate([_nearest_lists(block @ pivots.T, probes) for block in _blocks(queries)])
    query_order, query_starts = _inverted(probed.ravel(), lists)
    index_order, index_starts = _inverted(list_of, lists)
    for place in range(lists):
        members = index_order[index_starts[place] : index_starts[place + 1]]
        probing = query_order[query_starts[place] : query_starts[place + 1]] // probes
        listed = index[members]
        # Of images of one kind a list may hold a tenth of them all.
        for rows in _blocks(probing, max(1, min(BLOCK, COSINES // max(len(members), 1)))):
            cosines = queries[rows] @ listed.T
            near = np.flatnonzero(cosines >= least())  # ten times faster than two-dimensional `nonzero`
            row, column = np.divmod(near, max(len(members), 1))
            yield _nearest(rows[row], members[column], cosines.ravel()[near])


def _nearest_lists(cosines: np.ndarray, count: int) -> np.ndarray:
    """The `count` nearest of the lists of each row, int64 [Q, count], in any order; a copy, for a view would keep the
    places of all lists: 8 GB of a million images."""
    return np.argpartition(-cosines, count - 1, axis=1)[:, :count].copy()


def _blocks(rows: np.ndarray | _UnitRows, count: int = BLOCK) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), count):
        yield rows[start : start + count]


def _inverted(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The positions of `values`, sorted by value, and the start of each value in that order."""
    return np.argsort(values, kind="stable"), np.searchsorted(np.sort(values), np.arange(count + 1))


def _nearest(rows: np.ndarray, others: np.ndarray, cosines: np.ndarray) -> Part:
    """The `NEIGHBOURS` nearest of each row, and the row itself."""
    order = np.lexsort((-cosines, rows))
    rows, others, cosines = rows[order], others[order], cosines[order]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = place <= NEIGHBOURS
    return rows[kept], others[kept], cosines[kept]


def _gather(found: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], both_ways: bool = False) -> Pairs:
    """Each pair once, with its highest cosine; `both_ways`: once plain and once mirrored."""
    empty = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, bool), np.empty(0, np.float32))
    rows, others, mirrored, cosine = (np.concatenate(parts) for parts in zip(empty, *found, strict=True))
    first, second = np.minimum(rows, others), np.maximum(rows, others)
    keys = [first, second] + ([mirrored.astype(np.int64)] if both_ways else [])
    order = np.lexsort((-cosine, *reversed(keys)))
    order = order[first[order] != second[order]]
    differs = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    kept = order[np.concatenate([np.ones(min(len(order), 1), bool), differs])]
    return Pairs(first[kept], second[kept], mirrored[kept], cosine[kept])
