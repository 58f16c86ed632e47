"""Splits that never move: an image keeps the split that it was first given, over every later snapshot.

A split that the source gives is taken. Missing ones are made class by class: images are ranked by a salted hash of
their digest, and the first of the new ones fill what their class lacks in test, then in validation; the rest train.
So a split is a function of the images and the order of their arrival, never of a seed or of a file's name.
"""

from __future__ import annotations

import hashlib
import logging

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tasks import config
from tasks.artifacts import SPLITS, CatalogueRef, Run, SnapshotRef
from tasks.errors import InvalidDataError
from tasks.tables import CATALOGUE, read_table, write_table

log = logging.getLogger(__name__)

# One row for each image that a model name ever met, in the order of arrival. It only grows.
ASSIGNMENTS = pa.schema(
    [
        ("sha256", pa.string()),
        ("split", pa.string()),
        ("run_id", pa.string()),  # the run that met the image first
    ]
)
TRAIN, VALIDATION, TEST = range(len(SPLITS))
NONE = -1
SNAPSHOT_ID_LENGTH = 16
# Keeps the ranks apart from any other use of the digests' leading bytes.
RANK_SALT = 0x9E3779B97F4A7C15


def assignments_path(name: str) -> str:
    return f"snapshots/assignments/{name}.parquet"


def snapshot_path(snapshot_id: str) -> str:
    return f"snapshots/{snapshot_id}.parquet"


def make_snapshot(run: Run, catalogue: CatalogueRef) -> SnapshotRef:
    """Gives every image of a catalogue its split, and writes the snapshot and the grown assignments.

    The assignments are written first: a run that dies between the two finds its own assignments again, by its
    `run_id`, and comes to the same snapshot.

    Raises:
        InvalidDataError: a class is left without an image to train on.
    """
    table = read_table(run.workspace, catalogue.table_path)
    earlier = read_assignments(run)
    table, assigned = assign(table, earlier, run.config.split, run.run_id)
    _check_training_images(table)
    if len(assigned) > len(earlier):
        write_table(run.workspace, assignments_path(run.name), assigned, ASSIGNMENTS)
    identity = snapshot_id(table)
    _write_snapshot(run, snapshot_path(identity), table)
    arrived = assigned.loc[assigned["run_id"] == run.run_id, "sha256"]
    return SnapshotRef(
        id=identity,
        table_path=snapshot_path(identity),
        labels=tuple(sorted(set(table["label"]))),
        images=len(table),
        new=int(table["sha256"].isin(arrived).sum()),
        quarantined=catalogue.quarantined,
    )


def assign(
    table: pd.DataFrame, earlier: pd.DataFrame, shares: config.Split, run_id: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The splits of a catalogue's images.

    Args:
        table: a catalogue, `split` null where the source gives none.
        earlier: the assignments so far.
        shares: of each class, what validation and test get where the source does not give them.
        run_id: names the run that new images are entered under.

    Returns:
        The table, sorted by (sha256, label), with every split filled; and the assignments, grown.
    """
    table = table.sort_values(["sha256", "label"], ignore_index=True)
    given = _split_codes(table["split"])
    held = _held_codes(table["sha256"], earlier)
    _warn_of_moves(table, given, held)
    classes = pd.factorize(table["label"])[0]
    new = held == NONE
    lacking = [split for split in (TEST, VALIDATION) if split not in given]
    # An image that the source gives no split may come into any. One that it gives to train may come only into a split
    # that the source lacks, and only after those without one: it is cut from train.
    order = np.lexsort((ranks(table["sha256"]), given != NONE, classes))
    split = np.where(new, np.where((given == TRAIN) & bool(lacking), NONE, given), held)
    for wanted, share in ((TEST, shares.test_share), (VALIDATION, shares.validation_share)):
        eligible = new & (split == NONE) & ((given == NONE) | (wanted in lacking))
        deficits = _deficits(classes, split, wanted, share)
        split[_first_of_each_class(order[eligible[order]], classes, deficits)] = wanted
    split[split == NONE] = TRAIN
    table = table.assign(split=np.array(SPLITS, dtype=object)[split])
    fresh = table.loc[new, ["sha256", "split"]].assign(run_id=run_id)
    return table, pd.concat([earlier, fresh], ignore_index=True)


def _split_codes(splits: pd.Series) -> np.ndarray:
    """Places in SPLITS, int64 [N], -1 for null."""
    return pd.Categorical(splits, categories=list(SPLITS)).codes.astype(np.int64)


def _held_codes(digests: pd.Series, earlier: pd.DataFrame) -> np.ndarray:
    """The split that each image was given before, int64 [N], -1 for a new one."""
    place = pd.Index(earlier["sha256"]).get_indexer(pd.Index(digests))
    codes = np.append(_split_codes(earlier["split"]), NONE)  # place -1 is the last
    return codes[place]


def _deficits(classes: np.ndarray, split: np.ndarray, wanted: int, share: float) -> np.ndarray:
    """How many images each class lacks in the `wanted` split: its share, rounded, and at least one, less those it
    has; but never the last that is left to train on."""
    sizes = np.bincount(classes)
    due = np.maximum(np.rint(sizes * share).astype(np.int64), 1)
    has = np.bincount(classes[split == wanted], minlength=len(sizes))
    trainable = np.bincount(classes[(split == TRAIN) | (split == NONE)], minlength=len(sizes))
    return np.minimum(due - has, trainable - 1)


def _first_of_each_class(rows: np.ndarray, classes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The first `counts[class]` of each class among `rows`, which are sorted by class."""
    sizes = np.bincount(classes[rows], minlength=len(counts))
    place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # within its class
    return rows[place < counts[classes[rows]]]


def ranks(digests: pd.Series) -> np.ndarray:
    """A uniform uint64 for each digest: SplitMix64 (Steele et al. 2014) of its first 64 bits and a salt."""
    if digests.empty:
        return np.empty(0, np.uint64)
    leading = bytes.fromhex("".join(digests.str.slice(0, 16)))
    z = np.frombuffer(leading, ">u8").astype(np.uint64) + np.uint64(RANK_SALT)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def snapshot_id(table: pd.DataFrame) -> str:
    """The first 16 hex digits of the SHA-256 over the lines `sha256,label,split`, tab-separated, sorted.

    It is taken over the content and not over a file, whose bytes differ between versions of Parquet's writer.
    """
    lines = sorted(table["sha256"] + "\t" + table["label"] + "\t" + table["split"])
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:SNAPSHOT_ID_LENGTH]


def read_assignments(run: Run) -> pd.DataFrame:
    """The assignments of the run's model so far; made again from its snapshots where the file was lost."""
    path = assignments_path(run.name)
    if run.workspace.exists(path):
        return read_table(run.workspace, path)
    return _rebuild_assignments(run)


def _rebuild_assignments(run: Run) -> pd.DataFrame:
    found = [ASSIGNMENTS.empty_table().to_pandas()]
    for name in run.workspace.names("snapshots"):
        if name.endswith(".parquet"):
            content = pa.BufferReader(run.workspace.read_bytes(f"snapshots/{name}"))
            if run.name in _names(pq.read_schema(content)):
                content.seek(0)
                found.append(pq.read_table(content, columns=["sha256", "split"]).to_pandas().assign(run_id=""))
    if len(found) > 1:
        log.warning("the assignments of %r are lost: made again from %d snapshots", run.name, len(found) - 1)
    return pd.concat(found, ignore_index=True).drop_duplicates("sha256", ignore_index=True)


def _names(schema: pa.Schema) -> list[str]:
    """The models that a snapshot was made for; two models on the same data share one."""
    return (schema.metadata or {}).get(b"names", b"").decode().split()


def _write_snapshot(run: Run, path: str, table: pd.DataFrame) -> None:
    names: list[str] = []
    if run.workspace.exists(path):
        names = _names(pq.read_schema(pa.BufferReader(run.workspace.read_bytes(path))))
        if run.name in names:
            return
    metadata = {"names": " ".join(sorted({*names, run.name}))}
    write_table(run.workspace, path, table, CATALOGUE.with_metadata(metadata))


def _warn_of_moves(table: pd.DataFrame, given: np.ndarray, held: np.ndarray) -> None:
    """Says which images the source now gives another split than they have. They keep what they have: a test image
    that is trained on, or a training image that is tested on, would make every later comparison worthless."""
    moved = (held != NONE) & (given != NONE) & (held != given)
    # Where a source has no test (or validation) set, ours was cut from what it calls train: that is no change.
    moved &= (given != TRAIN) | np.isin(held, given)
    if rows := np.flatnonzero(moved).tolist():
        examples = ", ".join(
            f"{table.at[row, 'path']} ({SPLITS[held[row]]} since it was first seen, now given as {SPLITS[given[row]]})"
            for row in rows[:3]
        )
        log.warning("%d images keep their split although the source now gives another: %s", len(rows), examples)


def _check_training_images(table: pd.DataFrame) -> None:
    sizes = pd.crosstab(table["label"], table["split"]).reindex(columns=list(SPLITS), fill_value=0)
    without = sizes[sizes["train"] == 0]
    if len(without):
        found = (f"{label!r} ({row.validation} in validation, {row.test} in test)" for label, row in without.iterrows())
        raise InvalidDataError([f"no image to train on in the class {', '.join(found)}"])
