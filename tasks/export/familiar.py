"""The output `familiarity` of model.onnx: fitted to stored features, and tried on classes that were left out."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import onnx
import pandas as pd

from tasks.networks.familiarity import FITTED, Basis, Familiarity, fit_basis
from tasks.networks.unknown_classes import FITTED as LEFT_OUT_FITTED
from tasks.networks.unknown_classes import leave_classes_out
from tasks.records import FamiliarityBasis, FeatureExtractor, Features, Head, Run
from tasks.storage.feature_store import load_rows
from tasks.storage.rows import row_blocks
from tasks.storage.snapshots import read_snapshot
from tasks.storage.tables import read_table


def fit_familiarity_basis(run: Run, features: Features) -> FamiliarityBasis:
    """Of the familiarity what depends on no head, and how well it tells classes that it was fitted without: see `Basis`
    and `Unknown`."""
    train, held_out = _samples(run, features)
    rows, targets, held_out_rows = (
        _rows(run, features, train),
        _targets(features, train),
        _rows(run, features, held_out),
    )
    widths = _widths(features.extractor)
    unknown = leave_classes_out(
        rows[:LEFT_OUT_FITTED],
        targets[:LEFT_OUT_FITTED],
        held_out_rows,
        _targets(features, held_out),
        features.snapshot.labels,
        widths,
    )
    made = FamiliarityBasis(features=features, folder=run.folder)
    run.workspace.write_bytes(made.path, fit_basis(rows, targets, held_out_rows, widths).save())
    run.workspace.write_json(made.unknown_classes_path, unknown and asdict(unknown))
    return made


def familiarity_of(run: Run, head: Head, basis: FamiliarityBasis) -> Familiarity:
    """The familiarity of a head's model."""
    _, held_out = _samples(run, head.features)
    logits = read_table(run.workspace, head.validation_path).set_index("sha256").loc[held_out["sha256"], "logits"]
    found = Basis.load(run.workspace.read_bytes(basis.path))
    return found.with_logits(np.stack(logits.to_list()), run.config.export.familiar_share)


def _samples(run: Run, features: Features) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Up to `FITTED` images each of training and of validation: the first, as digests are in no order."""
    table = read_snapshot(run.workspace, features.snapshot.id, ["sha256", "label", "split"])
    train, held_out = (
        table[table["split"] == split].drop_duplicates("sha256").sort_values("sha256")
        for split in ("train", "validation")
    )
    return train.head(FITTED), held_out.head(FITTED)


def _targets(features: Features, images: pd.DataFrame) -> np.ndarray:
    index = {label: i for i, label in enumerate(features.snapshot.labels)}
    return images["label"].map(index).to_numpy(np.int64)


def _widths(extractor: FeatureExtractor) -> tuple[int, ...]:
    return () if extractor.activations_key else extractor.widths


def _rows(run: Run, features: Features, images: pd.DataFrame) -> np.ndarray:
    """What the head takes, float16 [N, D]; of activations their mean over space."""
    extractor = features.extractor
    channels = _channels(run, extractor) if extractor.activations_key else 0
    with load_rows(run.workspace, extractor.head_key, images["sha256"].tolist(), range(1)) as rows:
        if not channels:
            return np.concatenate(list(row_blocks(rows)))
        blocks = (block.reshape(len(block), -1, channels) for block in row_blocks(rows))
        return np.concatenate([block.mean(axis=1, dtype=np.float32).astype(np.float16) for block in blocks])


def _channels(run: Run, extractor: FeatureExtractor) -> int:
    """C of the activations [N, h, w, C]."""
    graph = onnx.load_model_from_string(run.workspace.read_bytes(extractor.onnx_path)).graph
    [output] = [output for output in graph.output if output.name == extractor.output]
    return output.type.tensor_type.shape.dim[-1].dim_value
