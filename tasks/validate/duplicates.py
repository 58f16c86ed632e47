"""Near-duplicates: copies of a picture that were recompressed, resized, mirrored, cropped a little or made brighter.

Found in two steps, so that a million images need no comparison of all pairs:

1. Candidates by perceptual hash: pairs whose hashes have a high cosine. Beyond some thousand images the hashes are
   kept in an inverted file (Jegou et al. 2011, "Product Quantization for Nearest Neighbor Search"): each lies in the
   list of its nearest pivot, and an image is compared with the lists of its few nearest pivots only.
2. Proof by pixels: one image is laid onto the other by an affine alignment (ECC; Evangelidis and Psarakis 2008) and
   they are copies where their fine structure correlates. Different photographs of like things, which a hash can't tell
   apart, fail this by a wide margin.

Only images that are new to a model are compared; what older ones are to each other is in its assignments.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from tasks.errors import DecodeError, SourceError
from tasks.modality.images import load, open_image, read_bytes, to_rgb
from tasks.storage.rows import Rows

log = logging.getLogger(__name__)

# Measured on 3,409 photographs of clothing and 717 copies of such (four seeds of tests/dirty.py), and on 1,100 of hand
# signs. A copy's hash has a cosine of 0.858 or more; so have some 800 pairs of different photographs. Once aligned, the
# fine structure of 98 % of the copies correlates at 0.72 or more, that of one pair of different photographs. What falls
# below lost its fine structure in compression, and its hash is all the nearer: no pair of different photographs has a
# cosine above 0.96.
MIN_COSINE = 0.85
MIN_CORRELATION = 0.72
SURE_COSINE = 0.97
SURE_CORRELATION = 0.45
MIN_FEATURE_COSINE = 0.88
LEAST_COMPARED = 1000  # pairs of like features whose pixels are compared, or half as many as there are new images
NEIGHBOURS = 16  # candidates for each image and variant, the nearest ones
EXHAUSTIVE_COMPARISONS = 200_000_000  # below this many, an inverted file costs more than it saves
PROBES = 8
BLOCK = 4096
SIDE_PX = 96  # at which two pictures are compared
ALIGN_SIDE_PX = 48  # at which they are aligned: a third of the time of 96 px, to the same end
FINE_STRUCTURE_PX = 2.0  # what a Gaussian of this width blurs away
_EVERYWHERE = np.full((ALIGN_SIDE_PX, ALIGN_SIDE_PX), 255, dtype=np.uint8)


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
        """The pairs that `mask`, bool [P], picks."""
        return Pairs(self.first[mask], self.second[mask], self.mirrored[mask], self.cosine[mask])


def find_groups(table: pd.DataFrame, assignments: pd.DataFrame) -> pd.Series:
    """The group of each image of a catalogue: near-duplicates have one in common.

    Args:
        table: columns sha256, uri, phash.
        assignments: columns sha256 and group, of the images that are known already.

    Returns:
        A group's name for each row: that of its first known member, or the smallest digest among its members.
    """
    known = table["sha256"].map(assignments.set_index("sha256")["group"]).astype(object)
    candidates = near_pairs(_hashes(table["phash"]), known.isna().to_numpy())
    return join_groups(table, known, candidates)


def join_groups(table: pd.DataFrame, known: pd.Series, candidates: Pairs) -> pd.Series:
    """The groups of a table's images once the candidates that are proven copies are joined.

    Args:
        table: columns sha256, uri.
        known: the groups so far; null for an image that has none.
    """
    proven = verify(candidates, table["uri"])
    if proven.any():
        log.info("%d pairs of near-duplicates found", proven.sum())
    old = pd.factorize(known)[0]  # -1 for the new
    component = _components(len(table), candidates.first[proven], candidates.second[proven], old)
    # Known names sort before digests; by their ranks, for the least of strings is sought one by one, at 0.2 ms each.
    candidates_of_name = np.where(known.notna(), "0" + known.astype("str"), "1" + table["sha256"])
    ranks, names = pd.factorize(candidates_of_name, sort=True)
    least = np.full(component.max(initial=-1) + 1, len(names))
    np.minimum.at(least, component, ranks)
    return pd.Series(names[least[component]], table.index, dtype=object, name="group").str.slice(1)


def near_pairs(hashes: np.ndarray, new: np.ndarray, min_cosine: float = MIN_COSINE) -> Pairs:
    """Pairs of images with like hashes, one of them new at least.

    Args:
        hashes: int8 [N, 2, 64], see `tasks.modality.inspection.perceptual_hash`.
        new: bool [N].
    """
    if not new.any():
        return _gather([])
    halves = hashes[:, :, 1:].astype(np.float32)  # without the mean, which is 0
    # Where all images are of one kind, what they have in common says nothing: each frequency counts as it varies.
    scale = halves[:, 0].std(axis=0) + 1.0
    mirror = np.where(np.arange(1, 64) % 2, -1, 1)
    whole, inner = (_unit(halves[:, half] / scale) for half in (0, 1))
    found = []
    for mirrored, flip in ((False, 1), (True, mirror)):
        # A crop of an image is like its inner part; which of two is the crop is not known.
        for queries, index in ((whole[new] * flip, whole), (inner[new] * flip, whole), (whole[new] * flip, inner)):
            found += [
                (np.flatnonzero(new)[rows], others, np.full(len(rows), mirrored), cosine)
                for rows, others, cosine in _search(queries, index, min_cosine)
            ]
    return _gather(found)


def near_in_features(features: np.ndarray | Rows, new: np.ndarray, min_cosine: float = MIN_FEATURE_COSINE) -> Pairs:
    """Pairs of images with like features, [N, D], one of them new at least; each as it is and mirrored, for a network
    hardly tells these apart.

    Where all images are of one kind (hands before a wall), each is like many others: then the likest pairs only, for
    comparing the pixels of a pair takes a millisecond.
    """
    places = np.flatnonzero(new)
    if not len(places):
        return _gather([])
    index = _UnitRows(features, np.arange(len(features)))
    found = [
        (places[asking], others, cosine)
        for asking, others, cosine in _search(_UnitRows(features, places), index, min_cosine)
    ]
    pairs = _gather(
        [
            (asking, others, np.full(len(asking), mirrored), cosine)
            for asking, others, cosine in found
            for mirrored in (False, True)
        ],
        both_ways=True,
    )
    most = max(LEAST_COMPARED, len(places) // 2)
    return pairs.where(np.argsort(np.argsort(-pairs.cosine, kind="stable")) < most)


def verify(pairs: Pairs, uris: pd.Series) -> np.ndarray:
    """Which pairs are copies of one picture, bool [P], by their pixels. An image that can't be read is none."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        wanted = np.unique(np.concatenate([pairs.first, pairs.second])).tolist()
        pictures = dict(zip(wanted, pool.map(_picture, [uris.iloc[row] for row in wanted]), strict=True))

        def correlation(pair: tuple[int, int, bool]) -> float:
            one, other, mirrored = pictures[pair[0]], pictures[pair[1]], pair[2]
            if one is None or other is None:
                return -1.0
            return aligned_correlation(one, np.ascontiguousarray(other[:, ::-1]) if mirrored else other)

        rows = zip(pairs.first.tolist(), pairs.second.tolist(), pairs.mirrored.tolist(), strict=True)
        found = np.array(list(pool.map(correlation, rows)), dtype=np.float32)
    return found >= np.where(pairs.cosine >= SURE_COSINE, SURE_CORRELATION, MIN_CORRELATION)


def aligned_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """How well the fine structure of two grey images (float32 [96, 96]) agrees once one is laid onto the other.

    Returns:
        Pearson's correlation of what a blur takes away, over the common part; -1 where no alignment is found.
    """
    warp = _alignment(one, other)
    if warp is None:
        return -1.0
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(other, warp, (SIDE_PX, SIDE_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    common = cv2.warpAffine(np.ones_like(other), warp, (SIDE_PX, SIDE_PX), flags=flags)[3:-3, 3:-3] > 0.99
    fine = [(image - cv2.GaussianBlur(image, (0, 0), FINE_STRUCTURE_PX))[3:-3, 3:-3][common] for image in (one, laid)]
    if common.mean() < 0.5 or min(float(part.std()) for part in fine) == 0:
        return -1.0
    return float(np.corrcoef(fine[0], fine[1])[0, 1])


def _alignment(one: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    """The affine map, float32 [2, 3], from `one`'s pixels to `other`'s that makes them agree best."""
    small = [cv2.resize(image, (ALIGN_SIDE_PX, ALIGN_SIDE_PX), interpolation=cv2.INTER_AREA) for image in (one, other)]
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
    start = np.eye(2, 3, dtype=np.float32)
    try:
        _, warp = cv2.findTransformECC(small[0], small[1], start, cv2.MOTION_AFFINE, stop, _EVERYWHERE, 3)
    except cv2.error:  # it does not converge: they have nothing in common
        return None
    warp[:, 2] *= SIDE_PX / ALIGN_SIDE_PX
    return warp


def _hashes(column: pd.Series) -> np.ndarray:
    return np.frombuffer(b"".join(column), np.int8).reshape(len(column), 2, 64)


class _UnitRows:
    """Some rows of an array, in memory or on disk, each scaled to length 1 when it is read: float32."""

    def __init__(self, rows: np.ndarray | Rows, places: np.ndarray) -> None:
        self._rows, self._places = rows, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, wanted: np.ndarray | slice) -> np.ndarray:
        return _unit(self._rows[self._places[wanted]].astype(np.float32))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _search(
    queries: np.ndarray | _UnitRows, index: np.ndarray | _UnitRows, min_cosine: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(query rows, index rows, cosines) of pairs at or above `min_cosine`, for unit vectors [Q, D] and [N, D]."""
    lists = 1 if len(queries) * len(index) <= EXHAUSTIVE_COMPARISONS else int(np.sqrt(len(index)))
    pivots = index[np.arange(0, len(index), max(len(index) // lists, 1))[:lists]]  # sorted by digest, so evenly drawn
    list_of = np.concatenate([(block @ pivots.T).argmax(axis=1) for block in _blocks(index)])
    probes = min(PROBES, lists)
    probed = np.concatenate(
        [np.argpartition(-(block @ pivots.T), probes - 1, axis=1)[:, :probes] for block in _blocks(queries)]
    )
    query_order, query_starts = _inverted(probed.ravel(), lists)
    index_order, index_starts = _inverted(list_of, lists)
    for place in range(lists):
        members = index_order[index_starts[place] : index_starts[place + 1]]
        asking = query_order[query_starts[place] : query_starts[place + 1]] // probes
        listed = index[members]
        for rows in _blocks(asking):
            cosines = queries[rows] @ listed.T
            near = np.flatnonzero(cosines >= min_cosine)  # a tenth of the time of `nonzero` in two dimensions
            asked, found = np.divmod(near, max(len(members), 1))
            yield _nearest(rows[asked], members[found], cosines.ravel()[near])


def _blocks(rows: np.ndarray | _UnitRows) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]


def _inverted(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The positions of `values` in the order of their values, and where each value's run starts."""
    return np.argsort(values, kind="stable"), np.searchsorted(np.sort(values), np.arange(count + 1))


def _nearest(rows: np.ndarray, others: np.ndarray, cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each row its `NEIGHBOURS` nearest (and itself)."""
    order = np.lexsort((-cosines, rows))
    rows, others, cosines = rows[order], others[order], cosines[order]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = place <= NEIGHBOURS
    return rows[kept], others[kept], cosines[kept]


def _gather(found: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], both_ways: bool = False) -> Pairs:
    """One row for each pair of two, that of its highest cosine; `both_ways`: and one for each way round."""
    empty = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, bool), np.empty(0, np.float32))
    rows, others, mirrored, cosine = (np.concatenate(parts) for parts in zip(empty, *found, strict=True))
    first, second = np.minimum(rows, others), np.maximum(rows, others)
    order = np.lexsort((-cosine, second, first))
    order = order[first[order] != second[order]]
    keys = [first[order], second[order]] + ([mirrored[order].astype(np.int64)] if both_ways else [])
    _, best = np.unique(np.stack(keys), axis=1, return_index=True)
    kept = order[best]
    return Pairs(first[kept], second[kept], mirrored[kept], cosine[kept])


def _picture(uri: str) -> np.ndarray | None:
    """A small grey square of an image, float32 [96, 96]; None where it can't be read."""
    try:
        image = open_image(read_bytes(uri))
        image.draft("L", (SIDE_PX, SIDE_PX))
        upright = load(image)
    except (SourceError, DecodeError):
        return None
    grey = upright if upright.mode == "L" else to_rgb(upright).convert("L")
    return np.asarray(grey.resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX), dtype=np.float32)


def _components(count: int, first: np.ndarray, second: np.ndarray, old: np.ndarray) -> np.ndarray:
    """The connected component of each of `count` rows, by pairs and by the groups (-1: none) that they had."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = np.flatnonzero(old >= 0)
    _, firsts, inverse = np.unique(old[rows], return_index=True, return_inverse=True)
    sources, targets = np.concatenate([first, rows]), np.concatenate([second, rows[firsts][inverse]])
    graph = coo_array((np.ones(len(sources), bool), (sources, targets)), shape=(count, count))
    return connected_components(graph, directed=False)[1]
