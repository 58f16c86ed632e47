"""The training items of a published model, and which of them resemble an item most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.errors import WorkspaceError
from tasks.pool.cut import CutModel
from tasks.storage.feature_store import row_blocks_of
from tasks.storage.similar import most_similar
from tasks.storage.snapshots import read_snapshot
from tasks.workspace import Workspace

NEAREST = 3
Blocks = Iterable[tuple[np.ndarray, np.ndarray]]  # places int [M], and their rows [M, D]


def training_items(workspace: Workspace, model: CutModel) -> pd.DataFrame:
    """Columns sha256, uri and label, by digest, which is in no order: the first few are random ones.

    Raises:
        WorkspaceError: the snapshot is not there, or damaged.
    """
    table = read_snapshot(workspace, model.snapshot, ["sha256", "uri", "label", "split"])
    training = table[table["split"] == "train"].drop_duplicates("sha256").sort_values("sha256")
    return training[["sha256", "uri", "label"]].reset_index(drop=True)


def nearest_of(items: pd.DataFrame, blocks: Blocks, sha256s: Sequence[str], rows: np.ndarray) -> list[pd.DataFrame]:
    """The training items that resemble each of some items most, never the item itself.

    Args:
        items: see `training_items`.
        blocks: the places of training items with their rows, as `row_blocks_of` gives them.
        sha256s: of the items that are asked about.
        rows: theirs, float [N, W].
    """
    place = dict(zip(items["sha256"], items.index, strict=True))
    own = np.array([place.get(sha256, -1) for sha256 in sha256s])
    return [items.iloc[places] for places in most_similar(rows, blocks, NEAREST, own)]


@dataclass(frozen=True, kw_only=True)
class TrainingIndex:
    """Training items with their stored rows, in memory, for many questions. Nothing of it is written."""

    items: pd.DataFrame
    blocks: list[tuple[np.ndarray, np.ndarray]]
    width: int | None  # of a row the columns that show likeness best; None for all

    def nearest(self, sha256: str, row: np.ndarray) -> pd.DataFrame:
        """The training items that resemble an item most; `row` is what the head takes of it, [D]."""
        [found] = nearest_of(self.items, self.blocks, [sha256], row[None, : self.width])
        return found


def index_training(workspace: Workspace, model: CutModel, items: pd.DataFrame, most: int) -> TrainingIndex:
    """Reads the rows of the first `most` training items.

    Raises:
        WorkspaceError: none of them has a row.
    """
    items = items.head(most)
    width = model.last_width
    found = row_blocks_of(workspace, model.key, items["sha256"].tolist(), np.float16)
    blocks = [(places, np.ascontiguousarray(rows[:, :width])) for places, rows in found]
    if not blocks:
        raise WorkspaceError(
            f"the training items of version {model.version} have no rows in features/{model.key}; "
            f"`headstart explain {model.name} FILE` makes them"
        )
    return TrainingIndex(items=items, blocks=blocks, width=width)
