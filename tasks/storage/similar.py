"""Which rows resemble others most, by the cosine of their features."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

SHORTEST = 1e-6  # length by which a row is divided


def most_similar(
    queries: np.ndarray,
    blocks: Iterable[tuple[np.ndarray, np.ndarray]],
    count: int,
    own: np.ndarray | None = None,
) -> list[np.ndarray]:
    """The rows that resemble each query most, in one pass over them.

    Args:
        queries: [N, W] of any float; of longer rows, the first W columns count.
        blocks: (places, rows) of what is compared with, int [M] and [M, W] of any float: see `row_blocks_of`.
        own: a place for each query that is left out, int [N]: that of the query itself; -1 leaves none out.

    Returns:
        For each query up to `count` places, int, the most similar first.
    """
    width, queries = queries.shape[1], _unit(queries)
    places, cosines = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    for block, rows in blocks:
        similar = queries @ _unit(rows[:, :width]).T
        if own is not None:
            similar[block == own[:, None]] = -np.inf
        cosines = np.concatenate([cosines, similar], axis=1)
        places = np.concatenate([places, np.broadcast_to(block, similar.shape)], axis=1)
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        places, cosines = np.take_along_axis(places, best, axis=1), np.take_along_axis(cosines, best, axis=1)
    return [found[np.isfinite(similar)] for found, similar in zip(places, cosines, strict=True)]


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), SHORTEST)
