"""Batches for Keras from rows on disk or in memory, in an order that a seed decides.

Rows are drawn as from a shuffled pack that is too large for the hand: the rows are cut into blocks of neighbours, the
blocks are shuffled, and so many of them as fit into memory (a pool) are read at a time and dealt out row by row. A
snapshot's rows are sorted by digest, which has nothing to do with labels, so a pool is a fair sample; where all rows
fit into one pool the order is a plain permutation, and they are read only once.

Two choices are made here: how often an epoch shows a row (balanced sampling), and whether rows are blended (mixup).
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from tasks.finetune.data import Split
from tasks.storage.rows import rows_within

POOL_BYTES = 256 << 20
BLOCK_BYTES = 1 << 20  # of rows that are read together


class Batches(keras.utils.PyDataset):
    """(features, targets float32 [B, C] that sum to 1, weights) of one batch after another.

    The last batch of an epoch may be smaller. With a `seed` each epoch has an order of its own.
    """

    def __init__(
        self,
        split: Split,
        class_weights: np.ndarray,
        batch_size: int,
        *,
        seed: int | None = None,
        times: int = 1,
        balanced: bool = False,
        mixup: float = 0,
    ) -> None:
        """Needs a seed for `balanced` and `mixup`.

        Args:
            class_weights: float32 [C], the weight of a row of each class.
            times: an epoch has so many times the rows of the split.
            balanced: each class has the same share of an epoch, its rows drawn as evenly as can be.
            mixup: alpha of the Beta distribution that the share of a row's partner is drawn from; 0 blends none.
        """
        super().__init__()
        self._split, self._class_weights, self._batch_size = split, class_weights, batch_size
        self._seed, self._times, self._epoch = seed, times, 0
        self._balanced, self._mixup = balanced, mixup
        self._pool_rows = max(1, rows_within(split.features, POOL_BYTES) // batch_size) * batch_size
        self._pool: tuple[tuple[int, int], np.ndarray, np.ndarray] | None = None
        self._order = self._draw()

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self._batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any, Any]:
        start = index * self._batch_size
        chosen = self._order[start : start + self._batch_size]
        held, features = self._pool_at(start)
        classes = self._split.targets[chosen]
        targets = np.eye(len(self._class_weights), dtype=np.float32)[classes]
        batch = features[np.searchsorted(held, chosen)], targets, self._class_weights[classes]
        return self._blended(index, *batch) if self._mixup else batch

    def on_epoch_end(self) -> None:
        self._epoch += 1
        self._order = self._draw()

    def _pool_at(self, start: int) -> tuple[np.ndarray, np.ndarray]:
        """The pool that the batch beginning at `start` comes from: sorted row numbers [M], and those rows [M, D]."""
        count = len(self._split.targets)
        all_fit = count <= self._pool_rows
        first = 0 if all_fit else start // self._pool_rows * self._pool_rows
        name = (0, 0) if all_fit else (self._epoch, first)
        if self._pool is None or self._pool[0] != name:
            self._pool = None  # before the next is read: there is room for one
            held = np.arange(count) if all_fit else np.unique(self._order[first : first + self._pool_rows])
            self._pool = (name, held, self._split.features[held])
        return self._pool[1:]

    def _draw(self) -> np.ndarray:
        """The order of an epoch: row numbers, int64 [N * times]."""
        count = len(self._split.targets)
        if self._seed is None:
            return np.tile(np.arange(count), self._times)
        rng = np.random.default_rng([self._seed, self._epoch])
        rows = self._balanced_rows(rng) if self._balanced else np.tile(np.arange(count), self._times)
        block = rows_within(self._split.features, BLOCK_BYTES)
        starts = rng.permutation(np.arange(0, len(rows), block))
        order = np.concatenate([rows[start : start + block] for start in starts])
        for first in range(0, len(order), self._pool_rows):
            rng.shuffle(order[first : first + self._pool_rows])
        return order

    def _balanced_rows(self, rng: np.random.Generator) -> np.ndarray:
        """Sorted row numbers, int64 [N * times], as many of each class; those of one class differ by one at most."""
        targets, total = self._split.targets, len(self._split.targets) * self._times
        present = np.unique(targets)
        times = np.zeros(len(targets), np.int64)
        for share, target in zip(np.array_split(np.arange(total), len(present)), present, strict=True):
            rows = rng.permutation(np.flatnonzero(targets == target))
            times[rows] = len(share) // len(rows)
            times[rows[: len(share) % len(rows)]] += 1
        return np.repeat(np.arange(len(targets)), times)

    def _blended(self, index: int, features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> tuple:
        """Mixup (Zhang et al. 2018): each row with another of its batch, their targets and weights in the same share.

        Above a lower boundary the rows are activation maps: that is manifold mixup (Verma et al. 2019) at one layer.
        """
        rng = np.random.default_rng([self._seed or 0, self._epoch, index])
        partners = rng.permutation(len(targets))
        shares = rng.beta(self._mixup, self._mixup, len(targets)).astype(np.float32)
        own = np.maximum(shares, 1 - shares)  # the pair is the same in both orders: the row keeps the greater share
        column = own[:, None]
        return (
            column * features + (1 - column) * features[partners],
            column * targets + (1 - column) * targets[partners],
            own * weights + (1 - own) * weights[partners],
        )
