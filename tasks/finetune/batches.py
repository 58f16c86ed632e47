"""Batches from rows on disk or in memory, in an order that a seed determines.

Rows are shuffled without loading all of them: the rows are cut into blocks of neighbours, the blocks are shuffled, and
as many blocks as fit into memory (a pool) are read at a time and shuffled row by row. A snapshot's rows are sorted by
digest, which is independent of the labels, so a pool is a fair sample. Where all rows fit into one pool, the order is a
plain permutation, and they are read only once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.finetune.data import Split
from tasks.storage.rows import rows_within

POOL_BYTES = 256 << 20
BLOCK_BYTES = 1 << 20  # of rows that are read together


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the rows of an epoch are drawn."""

    seed: int
    times: int = 1  # an epoch has this many times the rows of the split
    balanced: bool = False  # each class has the same share of an epoch
    mixup: float = 0  # alpha of the Beta distribution of a row's share in a blend; 0 turns mixup off
    dropout: float = 0  # the share of prepared values that are 0, others each time; the rest is scaled up


class Batches:
    """Batches of (features, targets float32 [B, C] that sum to 1, weights); the last one may be smaller."""

    def __init__(
        self,
        split: Split,
        class_weights: np.ndarray,
        batch_size: int,
        sampling: Sampling | None = None,
        prepare: Callable[[np.ndarray], np.ndarray] | None = None,
        taught: np.ndarray | None = None,
    ) -> None:
        """
        Args:
            class_weights: float32 [C], the weight of a row of each class.
            sampling: None gives the rows in their stored order.
            prepare: changes the values of rows [M, D], once for each time that they are read.
            taught: which of K heads each row teaches, bool [N, K]: then the weights of a batch are [B, K].
        """
        self._prepare, self._taught = prepare, taught
        self._split, self._class_weights, self._batch_size = split, class_weights, batch_size
        self._sampling, self._epoch = sampling, 0
        self._pool_rows = max(1, rows_within(split.features, POOL_BYTES) // batch_size) * batch_size
        self._pool: tuple[tuple[int, int], np.ndarray, np.ndarray] | None = None
        self._buffer: np.ndarray | None = None
        self._order = self._draw()

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any, Any]:
        start = index * self._batch_size
        chosen = self._order[start : start + self._batch_size]
        held, features = self._pool_at(start)
        classes = self._split.targets[chosen]
        targets = np.eye(len(self._class_weights), dtype=np.float32)[classes]
        rows, weights = features[np.searchsorted(held, chosen)], self._class_weights[classes]
        if self._taught is not None:
            weights = weights[:, None] * self._taught[chosen]
        sampling = self._sampling
        if sampling and (sampling.mixup or sampling.dropout):
            rng = np.random.default_rng([sampling.seed, self._epoch, index])
            if sampling.mixup:
                rows, targets, weights = _blended(rng, sampling.mixup, rows, targets, weights)
            rows = _with_dropout(rng, sampling.dropout, rows)
        return rows, targets, weights

    def on_epoch_end(self) -> None:
        self._epoch += 1
        self._order = self._draw()

    def _pool_at(self, start: int) -> tuple[np.ndarray, np.ndarray]:
        """The pool of the batch that starts at `start`: sorted row numbers [M], and those rows [M, D]."""
        count = len(self._split.targets)
        all_fit = count <= self._pool_rows
        first = 0 if all_fit else start // self._pool_rows * self._pool_rows
        name = (0, 0) if all_fit else (self._epoch, first)
        if self._pool is None or self._pool[0] != name:
            held = np.arange(count) if all_fit else np.unique(self._order[first : first + self._pool_rows])
            self._pool = (name, held, self._read(held))
        return self._pool[1:]

    def _read(self, held: np.ndarray) -> np.ndarray:
        """The rows as they are trained on, [M, D] of the stored dtype; those that dropout leaves are scaled up.

        Each pool is read into the same memory.
        """
        features = self._split.features
        if self._buffer is None:
            self._buffer = np.empty((min(self._pool_rows, len(features)), features.shape[1]), features.dtype)
        pool, step = self._buffer[: len(held)], rows_within(features, BLOCK_BYTES)
        kept = 1 - (_dropped(self._sampling.dropout) / 256 if self._sampling else 0)
        for start in range(0, len(held), step):
            rows = features[held[start : start + step]]
            if self._prepare:
                rows = self._prepare(rows)
                rows /= kept
            pool[start : start + step] = rows
        return pool

    def _draw(self) -> np.ndarray:
        """The order of an epoch: row numbers, int64 [N * times]."""
        count, sampling = len(self._split.targets), self._sampling
        if sampling is None:
            return np.arange(count)
        rng = np.random.default_rng([sampling.seed, self._epoch])
        total = count * sampling.times
        rows = (
            _balanced_rows(self._split.targets, total, rng)
            if sampling.balanced
            else np.tile(np.arange(count), sampling.times)
        )
        block = rows_within(self._split.features, BLOCK_BYTES)
        starts = rng.permutation(np.arange(0, len(rows), block))
        order = np.concatenate([rows[start : start + block] for start in starts])
        for first in range(0, len(order), self._pool_rows):
            rng.shuffle(order[first : first + self._pool_rows])
        return order


def _balanced_rows(targets: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted row numbers, int64 [total], equally many of each class; rows of a class differ by at most one use."""
    present = np.unique(targets)
    times = np.zeros(len(targets), np.int64)
    for share, target in zip(np.array_split(np.arange(total), len(present)), present, strict=True):
        rows = rng.permutation(np.flatnonzero(targets == target))
        times[rows] = len(share) // len(rows)
        times[rows[: len(share) % len(rows)]] += 1
    return np.repeat(np.arange(len(targets)), times)


def _blended(
    rng: np.random.Generator, alpha: float, features: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> tuple[Any, Any, Any]:
    """Mixup (Zhang et al. 2018): blends each row, its target and its weight with another row of the batch.

    On activation maps this is manifold mixup (Verma et al. 2019) at one layer.
    """
    partners = rng.permutation(len(targets))
    shares = rng.beta(alpha, alpha, len(targets)).astype(np.float32)
    own = np.maximum(shares, 1 - shares)  # the row keeps the greater share of the pair
    column = own[:, None]
    of_weights = own.reshape(-1, *[1] * (weights.ndim - 1))
    blended = of_weights * weights + (1 - of_weights) * weights[partners]
    return (
        column * features + (1 - column) * features[partners],
        column * targets + (1 - column) * targets[partners],
        blended * (weights > 0) * (weights[partners] > 0),  # who is not taught by one is not taught by the blend
    )


def _dropped(share: float) -> int:
    """Of 256 values, how many a byte lets dropout set to 0."""
    return round(256 * share)


def _with_dropout(rng: np.random.Generator, share: float, features: np.ndarray) -> np.ndarray:
    """Sets a share of the values to 0 (Srivastava et al. 2014); the others were scaled up when they were read.

    A byte decides on each value. Keras's layer draws 32 bits for each, which took a third of a training step.
    """
    if not share:
        return features
    kept = np.frombuffer(rng.bytes(features.size), np.uint8).reshape(features.shape) >= _dropped(share)
    # Zero has no bit set, as a float and as an integer, and NumPy multiplies integers 40 times as fast as it chooses
    # among float16.
    bits = features.view(f"u{features.itemsize}")
    return (bits * kept).view(features.dtype)
