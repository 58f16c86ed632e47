"""Near-duplicates: copies of an image that were recompressed, resized, mirrored, slightly cropped or made brighter; and
texts of which some words were changed (`tasks.modality.texts.shingles`).

Of images:

1. Candidates are pairs with similar perceptual hashes (see `tasks.validate.neighbours`).
2. Pixels decide: an affine alignment (ECC; Evangelidis and Psarakis 2008) maps one image onto the other, and they are
   copies where their fine structure correlates. Different photographs of similar things fail this by a wide margin.

Only images that are new to a model are compared; the groups of older ones are in its assignments.
"""

from __future__ import annotations

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from tasks.errors import DecodeError, SourceError
from tasks.modality.images.content import decode, load, open_image, to_rgb
from tasks.modality.items import is_text_uri, read_bytes
from tasks.modality.texts.content import decode_text, words_of
from tasks.modality.texts.shingles import MIN_SIMILARITY, candidate_pairs, shingles, similarity
from tasks.validate.neighbours import Pairs, near_pairs

log = logging.getLogger(__name__)

# On the photographs of `tasks.validate.neighbours`, the aligned fine structure of 98 % of the copies correlates at 0.72
# or more, that of one pair of different photographs. The other copies lost their fine structure in compression, but
# have very similar hashes: no pair of different photographs has a cosine above 0.96.
MIN_CORRELATION = 0.72
SURE_COSINE = 0.97
SURE_CORRELATION = 0.45
SIDE_PX = 96  # for the comparison
HELD_PAIRS = 4096  # whose images are held at a time: 300 MB at most
ALIGN_SIDE_PX = 48  # for the alignment: as accurate as 96 px, in a third of the time
FINE_STRUCTURE_PX = 2.0  # standard deviation of the Gaussian blur that removes fine structure
_EVERYWHERE = np.full((ALIGN_SIDE_PX, ALIGN_SIDE_PX), 255, dtype=np.uint8)


def find_groups(table: pd.DataFrame, assignments: pd.DataFrame) -> pd.Series:
    """The group of each item of a catalogue; near-duplicates share one.

    Args:
        table: columns sha256, uri, and phash or minhash.
        assignments: columns sha256 and group, of known images.

    Returns:
        The name of each row's group: that of its first known member, or the smallest digest of its members.
    """
    known = table["sha256"].map(assignments.set_index("sha256")["group"]).astype(object)
    new = known.isna().to_numpy()
    if "minhash" in table:
        return join_groups(table, known, near_texts(table["minhash"], new))
    hashes = np.frombuffer(b"".join(table["phash"]), np.int8).reshape(len(table), 2, 64)
    return join_groups(table, known, near_pairs(hashes, new))


def join_groups(table: pd.DataFrame, known: pd.Series, candidates: Pairs) -> pd.Series:
    """The groups of a table's items, after joining the candidates that are copies by their pixels or shingles.

    Args:
        table: columns sha256, uri.
        known: the present groups; null for an image that has none.
    """
    proven = verify(candidates, table["uri"])
    if proven.any():
        log.info("%d pairs of near-duplicates found", proven.sum())
    old = pd.factorize(known)[0]  # -1 for the new
    component = _components(len(table), candidates.first[proven], candidates.second[proven], old)
    # Known names sort before digests. Ranks, because the minimum of strings takes 0.2 ms for each group.
    candidates_of_name = np.where(known.notna(), "0" + known.astype("str"), "1" + table["sha256"])
    ranks, names = pd.factorize(candidates_of_name, sort=True)
    least = np.full(component.max(initial=-1) + 1, len(names))
    np.minimum.at(least, component, ranks)
    return pd.Series(names[least[component]], table.index, dtype=object, name="group").str.slice(1)


def content_digests(table: pd.DataFrame, max_pixels: int) -> pd.Series:
    """A digest of what a person sees of each item: of texts, their words; of images, see `pixel_digests`."""
    if "same_words" in table:
        return table["same_words"].map(bytes.hex)
    return pixel_digests(table, max_pixels)


def pixel_digests(table: pd.DataFrame, max_pixels: int) -> pd.Series:
    """The SHA-256 of the pixels of each image that may be equal to one under another label; null for the others.

    Compared are images of one group and one size: a picture saved in two formats, or with other metadata. Pictures of
    one scene, as a fixed camera takes them, are near-duplicates with other pixels.

    Args:
        table: columns sha256, uri, label, group, width_px, height_px.
    """
    found = pd.Series(None, table.index, dtype=object, name="pixels")
    alike = table[table["group"].notna()].groupby(["group", "width_px", "height_px"])["label"]
    rows = alike.transform("nunique").loc[lambda labels: labels > 1].index

    def digest(uri: str) -> str | None:
        try:
            return hashlib.sha256(decode(read_bytes(uri), max_pixels).tobytes()).hexdigest()
        except (SourceError, DecodeError):
            return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found[rows] = list(pool.map(digest, table.loc[rows, "uri"]))
    return found


def near_texts(signatures: pd.Series, new: np.ndarray) -> Pairs:
    """Pairs of texts that may be near-duplicates; at least one of each is new, bool [N]."""
    first, second = candidate_pairs(signatures.tolist(), new).T
    return Pairs(first, second, np.zeros(len(first), bool), np.ones(len(first), np.float32))


def verify(pairs: Pairs, uris: pd.Series) -> np.ndarray:
    """Which pairs are copies of one item, bool [P], by their pixels or shingles; what can't be read is none."""
    wanted = np.unique(np.concatenate([pairs.first, pairs.second]))
    if len(wanted) and is_text_uri(uris.iloc[wanted[0]]):
        return _verify_texts(pairs, uris)
    return _verify_images(pairs, uris)


def _verify_texts(pairs: Pairs, uris: pd.Series) -> np.ndarray:
    made: dict[int, set[str]] = {}

    def of(row: int) -> set[str]:
        if row not in made:
            try:
                made[row] = shingles(words_of(decode_text(read_bytes(uris.iloc[row]))))
            except (SourceError, DecodeError):
                made[row] = set()
        return made[row]

    rows = zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
    return np.array([similarity(of(one), of(other)) >= MIN_SIMILARITY for one, other in rows], bool)


def _verify_images(pairs: Pairs, uris: pd.Series) -> np.ndarray:
    found = np.empty(len(pairs), np.float32)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(pairs), HELD_PAIRS):  # neighbours in their order share images
            block = slice(start, start + HELD_PAIRS)
            rows = list(zip(pairs.first[block].tolist(), pairs.second[block].tolist(), strict=True))
            wanted = sorted({row for pair in rows for row in pair})
            images = dict(zip(wanted, pool.map(_small_image, uris.iloc[wanted]), strict=True))
            ones, others = [images[one] for one, _ in rows], [images[other] for _, other in rows]
            found[block] = list(pool.map(_correlation, ones, others, pairs.mirrored[block].tolist()))
    return found >= np.where(pairs.cosine >= SURE_COSINE, SURE_CORRELATION, MIN_CORRELATION)


def _correlation(one: np.ndarray | None, other: np.ndarray | None, mirrored: bool) -> float:
    """-1 where one of two images could not be read."""
    if one is None or other is None:
        return -1.0
    return aligned_correlation(one, np.ascontiguousarray(other[:, ::-1]) if mirrored else other)


def aligned_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation of the fine structure of two grey images, float32 [96, 96], after alignment.

    Fine structure is the difference to a blurred image. -1 where no alignment is found.
    """
    warp = _alignment(one, other)
    if warp is None:
        return -1.0
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    aligned = cv2.warpAffine(other, warp, (SIDE_PX, SIDE_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    common = cv2.warpAffine(np.ones_like(other), warp, (SIDE_PX, SIDE_PX), flags=flags)[3:-3, 3:-3] > 0.99
    fine = [
        (image - cv2.GaussianBlur(image, (0, 0), FINE_STRUCTURE_PX))[3:-3, 3:-3][common] for image in (one, aligned)
    ]
    if common.mean() < 0.5 or min(float(part.std()) for part in fine) == 0:
        return -1.0
    return float(np.corrcoef(fine[0], fine[1])[0, 1])


def _alignment(one: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    """The affine map, float32 [2, 3], from `one`'s pixels to `other`'s; None where they differ too much."""
    small = [cv2.resize(image, (ALIGN_SIDE_PX, ALIGN_SIDE_PX), interpolation=cv2.INTER_AREA) for image in (one, other)]
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
    start = np.eye(2, 3, dtype=np.float32)
    try:
        _, warp = cv2.findTransformECC(small[0], small[1], start, cv2.MOTION_AFFINE, stop, _EVERYWHERE, 3)
    except cv2.error:  # it does not converge
        return None
    warp[:, 2] *= SIDE_PX / ALIGN_SIDE_PX
    return warp


def _small_image(uri: str) -> np.ndarray | None:
    """An image as grey float32 [96, 96]; None where it can't be read."""
    try:
        image = open_image(read_bytes(uri))
        image.draft("L", (SIDE_PX, SIDE_PX))
        upright = load(image)
    except (SourceError, DecodeError):
        return None
    grey = upright if upright.mode == "L" else to_rgb(upright).convert("L")
    return np.asarray(grey.resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX), dtype=np.float32)


def _components(count: int, first: np.ndarray, second: np.ndarray, old: np.ndarray) -> np.ndarray:
    """The connected component of each of `count` rows, joined by pairs and by their `old` groups (-1: none)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = np.flatnonzero(old >= 0)
    _, firsts, inverse = np.unique(old[rows], return_index=True, return_inverse=True)
    sources, targets = np.concatenate([first, rows]), np.concatenate([second, rows[firsts][inverse]])
    graph = coo_array((np.ones(len(sources), bool), (sources, targets)), shape=(count, count))
    return connected_components(graph, directed=False)[1]
