"""Which chosen images are copies of others, and which labelled ones resemble each most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.pool.cut import CutModel
from tasks.pool.embedding import embed_missing
from tasks.pool.training import NEAREST
from tasks.records import Run
from tasks.storage.feature_store import load_features, stored_views
from tasks.storage.similar import most_similar
from tasks.validate.duplicates import verify
from tasks.validate.neighbours import near_in_features

BLOCK = 256


@dataclass(frozen=True, kw_only=True)
class Known:
    """Images that need no label: labelled ones, and others that were handed out.

    `table` has the columns sha256, uri and label, which is null for what was handed out; `features` are the rows'.
    """

    table: pd.DataFrame
    features: np.ndarray  # float16 [K, W]

    @property
    def labelled(self) -> np.ndarray:
        """Which of them have a label, bool [K]."""
        return self.table["label"].notna().to_numpy()


def know(run: Run, model: CutModel, labelled: pd.DataFrame, others: pd.DataFrame) -> Known:
    """Known images with their features.

    Args:
        labelled: columns sha256, uri and label; those that have no row are embedded, where they can be read.
        others: columns sha256 and uri; those that have no row are left out.
    """
    bad, _ = embed_missing(run, model, labelled)
    table = pd.concat([labelled[~labelled["sha256"].isin(bad.keys())], others]).drop_duplicates("sha256")
    stored = stored_views(run.workspace, model.key, table["sha256"].tolist(), 1)[:, 0]
    table = table[stored][["sha256", "uri", "label"]].reset_index(drop=True)
    features = load_features(run.workspace, model.key, table["sha256"].tolist(), 0)
    return Known(table=table, features=features[:, : model.last_width])


def are_copies(uris: pd.Series, features: np.ndarray, known: Known) -> np.ndarray:
    """Which images are near-duplicates of a known image or of an earlier one of them, bool [N]: similar features, and
    pixels that are equal after alignment (see `tasks.validate.duplicates`).

    Args:
        features: float16 [N, W].
    """
    before = len(known.table)
    new = np.arange(before + len(uris)) >= before
    pairs = near_in_features(np.concatenate([known.features, features]), new)
    copies = np.zeros(len(uris), bool)
    if len(pairs):
        proven = verify(pairs, pd.concat([known.table["uri"], uris], ignore_index=True))
        copies[pairs.second[proven] - before] = True
    return copies


def nearest_labelled(features: np.ndarray, known: Known) -> tuple[list[list[str]], list[list[str]]]:
    """The URIs and the labels of the labelled images that resemble each image most, by the cosine of their features.

    Args:
        features: float16 [N, W].
    """
    with_label = known.table[known.labelled]
    uris, labels = with_label["uri"].to_numpy(object), with_label["label"].to_numpy(object)
    index = [(np.arange(len(with_label)), known.features[known.labelled])]
    blocks = (features[start : start + BLOCK] for start in range(0, len(features), BLOCK))
    rows = [row for block in blocks for row in most_similar(block, index, NEAREST)]
    return [uris[row].tolist() for row in rows], [labels[row].tolist() for row in rows]
