"""The output `familiarity` of model.onnx: fitted to stored features, and tried on classes that were left out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from tasks.networks.familiarity import FITTED, Familiarity, fit_familiarity
from tasks.networks.unknown_classes import FITTED as LEFT_OUT_FITTED
from tasks.networks.unknown_classes import Unknown, leave_classes_out
from tasks.records import Head, Run
from tasks.storage.feature_store import load_rows
from tasks.storage.rows import row_blocks
from tasks.storage.snapshots import read_snapshot
from tasks.storage.tables import read_table


def fit_familiar(run: Run, head: Head, shape: tuple[int, ...]) -> tuple[Familiarity, Unknown | None]:
    """The familiarity of a head's model, and how well such a one tells classes that it was fitted without.

    Args:
        shape: of what the head takes of an image: (D,) features, or (h, w, D) activations.
    """
    snapshot, extractor = head.features.snapshot, head.features.extractor
    table = read_snapshot(run.workspace, snapshot.id, ["sha256", "label", "split"])
    index = {label: i for i, label in enumerate(snapshot.labels)}
    # Digests are in no order: the first images are a random sample.
    train, held_out = (_first(table, split) for split in ("train", "validation"))
    rows, held_out_rows = (_rows(run, head, each["sha256"].tolist(), shape) for each in (train, held_out))
    targets, held_out_targets = (each["label"].map(index).to_numpy(np.int64) for each in (train, held_out))
    logits = read_table(run.workspace, head.validation_path).set_index("sha256").loc[held_out["sha256"], "logits"]
    widths = () if extractor.activations_key else extractor.widths
    fitted = fit_familiarity(
        rows, targets, held_out_rows, np.stack(logits.to_list()), run.config.export.familiar_share, widths
    )
    few = slice(LEFT_OUT_FITTED)
    unknown = leave_classes_out(rows[few], targets[few], held_out_rows, held_out_targets, snapshot.labels, widths)
    return fitted, unknown


def _first(table: pd.DataFrame, split: str) -> pd.DataFrame:
    return table[table["split"] == split].drop_duplicates("sha256").sort_values("sha256").head(FITTED)


def _rows(run: Run, head: Head, sha256s: list[str], shape: tuple[int, ...]) -> np.ndarray:
    """What the head takes, float16 [N, D]; of activations their mean over space."""
    with load_rows(run.workspace, head.features.extractor.head_key, sha256s, range(1)) as rows:
        positions = math.prod(shape[:-1])
        blocks = (block.reshape(len(block), positions, shape[-1]) for block in row_blocks(rows))
        return np.concatenate([block.mean(axis=1, dtype=np.float32).astype(np.float16) for block in blocks])
