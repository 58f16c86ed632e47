"""What the head is trained on: stored features of a snapshot's splits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.artifacts import FeaturesRef, Run, SnapshotRef
from tasks.features import load_features
from tasks.tables import read_table


@dataclass(frozen=True, kw_only=True)
class Split:
    """`features` float16 [N, D] and `targets` int64 [N], indices into the snapshot's labels."""

    features: np.ndarray
    targets: np.ndarray


def load_split(run: Run, snapshot: SnapshotRef, features: FeaturesRef, split: str) -> Split:
    """One split; for `train`, each image once for each of its views, view by view."""
    table = read_table(run.workspace, snapshot.table_path, ["sha256", "label", "split"])
    rows = table[table["split"] == split]
    index = {label: i for i, label in enumerate(snapshot.labels)}
    targets = rows["label"].map(index).to_numpy(np.int64)
    views = range(features.views + 1) if split == "train" else range(1)
    sha256s = rows["sha256"].tolist()
    stacked = [load_features(run.workspace, features.recipe, sha256s, view) for view in views]
    return Split(features=np.concatenate(stacked), targets=np.tile(targets, len(views)))
