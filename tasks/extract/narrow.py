"""Rows of fewer layers from stored rows of more, whose first columns they are."""

from __future__ import annotations

import numpy as np

from tasks.records import FeatureExtractor, Run, Snapshot
from tasks.storage.feature_store import append_rows, row_blocks_of, stored_views
from tasks.storage.snapshots import read_snapshot


def copy_columns(run: Run, snapshot: Snapshot, wide: FeatureExtractor, narrow: FeatureExtractor) -> None:
    """Copies the rows of a snapshot's images (view 0) that are missing, so that no image is embedded for them.

    An int8 extractor's numbers depend on the whole graph that was quantised: of those nothing is copied.

    Args:
        narrow: an extractor of the same network and preprocessing as `wide`, which pools the first of its layers.
    """
    if wide.precision == "int8" or narrow.widths != wide.widths[: len(narrow.widths)]:
        return
    sha256s = read_snapshot(run.workspace, snapshot.id, ["sha256"])["sha256"].drop_duplicates()
    missing = sha256s[~stored_views(run.workspace, narrow.key, sha256s.tolist(), 1)[:, 0]].to_numpy()
    for places, rows in row_blocks_of(run.workspace, wide.key, missing.tolist(), np.float16):
        columns = rows[:, : sum(narrow.widths)]
        append_rows(run.workspace, narrow.key, missing[places].tolist(), [0] * len(places), columns)
