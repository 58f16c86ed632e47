"""Training data of the head: stored features of a snapshot's splits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tasks.records import Features, Run
from tasks.storage.feature_store import load_rows
from tasks.storage.rows import Rows
from tasks.storage.snapshots import read_snapshot


@dataclass(frozen=True, kw_only=True)
class Split:
    """`features` float16 [N, D], in memory or on disk, and `targets` int64 [N], indices into the snapshot's labels.

    `widths` are the numbers of features of each layer, which sum to D; empty where they are of one layer.
    """

    features: np.ndarray | Rows
    targets: np.ndarray
    widths: tuple[int, ...] = ()


@contextmanager
def load_split(run: Run, features: Features, split: str, key: str) -> Iterator[Split]:
    """Loads one split, on disk until the block ends; `train` has all views of its images, one view after the other.

    Args:
        split: `train` or `validation`.
        key: of the rows: pooled features, or the boundary's activations.
    """
    table = read_snapshot(run.workspace, features.snapshot.id, ["sha256", "label", "split"])
    chosen = table[table["split"] == split]
    index = {label: i for i, label in enumerate(features.snapshot.labels)}
    targets = chosen["label"].map(index).to_numpy(np.int64)
    widths = features.extractor.widths if key == features.extractor.key else ()
    views = range(features.views + 1) if split == "train" else range(1)
    with load_rows(run.workspace, key, chosen["sha256"].tolist(), views) as rows:
        yield Split(features=rows, targets=np.tile(targets, len(views)), widths=widths)
