"""Batches for Keras from rows on disk or in memory, in an order that a seed decides.

Rows are drawn as from a shuffled pack that is too large for the hand: the rows are cut into blocks of neighbours, the
blocks are shuffled, and so many of them as fit into memory (a pool) are read at a time and dealt out row by row. A
snapshot's rows are sorted by digest, which has nothing to do with labels, so a pool is a fair sample; where all rows
fit into one pool the order is a plain permutation, and they are read only once.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from tasks.finetune.data import Split
from tasks.rows import rows_within

POOL_BYTES = 256 << 20
BLOCK_BYTES = 1 << 20  # of rows that are read together


class Batches(keras.utils.PyDataset):
    """(features, targets, weights) of one batch after another; the last batch of an epoch may be smaller.

    With a `seed` each epoch has an order of its own. `times` repeats every row so often in an epoch.
    """

    def __init__(
        self, split: Split, class_weights: np.ndarray, batch_size: int, *, seed: int | None = None, times: int = 1
    ) -> None:
        """Args: class_weights: float32 [C], the weight of a row of each class."""
        super().__init__()
        self._split, self._class_weights, self._batch_size = split, class_weights, batch_size
        self._seed, self._times, self._epoch = seed, times, 0
        self._pool_rows = max(1, rows_within(split.features, POOL_BYTES) // batch_size) * batch_size
        self._pool: tuple[tuple[int, int], np.ndarray, np.ndarray] | None = None
        self._order = self._draw()

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any, Any]:
        start = index * self._batch_size
        chosen = self._order[start : start + self._batch_size]
        held, features = self._pool_at(start)
        targets = self._split.targets[chosen]
        return features[np.searchsorted(held, chosen)], targets, self._class_weights[targets]

    def on_epoch_end(self) -> None:
        self._epoch += 1
        self._order = self._draw()

    def _pool_at(self, start: int) -> tuple[np.ndarray, np.ndarray]:
        """The pool that the batch beginning at `start` comes from: sorted row numbers [M], and those rows [M, D]."""
        if len(self._split.targets) <= self._pool_rows:
            name, rows = (0, 0), slice(0, None)
        else:
            first = start // self._pool_rows * self._pool_rows
            name, rows = (self._epoch, first), slice(first, first + self._pool_rows)
        if self._pool is None or self._pool[0] != name:
            self._pool = None  # before the next is read: there is room for one
            held = np.unique(self._order[rows])
            self._pool = (name, held, self._split.features[held])
        return self._pool[1:]

    def _draw(self) -> np.ndarray:
        """The order of an epoch: row numbers, int64 [N * times]."""
        count = len(self._split.targets)
        if self._seed is None:
            return np.tile(np.arange(count), self._times)
        rng = np.random.default_rng([self._seed, self._epoch])
        block = rows_within(self._split.features, BLOCK_BYTES)
        starts = rng.permutation(np.arange(0, count * self._times, block))
        blocks = (np.arange(start, min(start + block, count * self._times)) for start in starts)
        order = np.concatenate(list(blocks))
        for first in range(0, len(order), self._pool_rows):
            rng.shuffle(order[first : first + self._pool_rows])
        return order % count
