"""Splits that never move: an image keeps the split that it was first given, over every later snapshot.

Near-duplicates go together: a new image joins the split of its group. Else a split that the source gives is taken.
Missing ones are made class by class: groups are ranked by a salted hash of a digest, and the first of the new ones
fill what their class lacks in test, then in validation; the rest train. So a split is a function of the images and
the order of their arrival, never of a seed or of a file's name.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks import config
from tasks.errors import InvalidDataError
from tasks.records import SPLITS, Catalogue, Run, Snapshot
from tasks.storage.assignments import read_assignments, write_assignments
from tasks.storage.quarantine import LeftOut, name_rows, quarantine
from tasks.storage.snapshots import write_snapshot
from tasks.storage.tables import read_table

log = logging.getLogger(__name__)

TRAIN, VALIDATION, TEST = range(len(SPLITS))  # where splits meet in one group, the greater wins
NONE = -1
# Keeps the ranks apart from any other use of the digests' leading bytes.
RANK_SALT = 0x9E3779B97F4A7C15
# A group of several images may not fit where a single one does; so many rounds fill the gaps that are left.
FILLING_ROUNDS = 3


@dataclass(frozen=True)
class Assigned:
    """A catalogue with its splits, the assignments grown by it, and the images that have to be left out."""

    table: pd.DataFrame
    assignments: pd.DataFrame
    left_out: list[LeftOut]


def make_snapshot(run: Run, catalogue: Catalogue) -> Snapshot:
    """Gives every image of a catalogue its split, and writes the snapshot and the grown assignments.

    The assignments are written first: where the process dies between the two, the next run finds the images that were
    entered for the same work, and comes to the same snapshot.

    Raises:
        InvalidDataError: a class is left without an image to train on.
    """
    table = read_table(run.workspace, catalogue.table_path)
    found = assign(table, read_assignments(run), run.config.split, catalogue.work)
    table = found.table
    _check_training_images(table)
    quarantine(run, found.left_out)
    write_assignments(run, found.assignments)
    arrived = found.assignments.loc[found.assignments["run_id"] == catalogue.work, "sha256"]
    return Snapshot(
        id=write_snapshot(run, table),
        labels=tuple(sorted(set(table["label"]))),
        images=len(table),
        new=int(table["sha256"].isin(arrived).sum()),
        folder=run.folder,
        catalogue=catalogue,
    )


def assign(table: pd.DataFrame, earlier: pd.DataFrame, shares: config.Split, work: str) -> Assigned:
    """The splits of a catalogue's images.

    Args:
        table: a catalogue; `split` is null where the source gives none, `group` where an image is alone.
        earlier: the assignments so far.
        shares: of each class, what validation and test get where the source does not give them.
        work: what new images are entered under.

    Returns:
        The table, sorted by (sha256, label), every split and group filled, without the images that are left out: two
        images that were given different splits and are now found to be near-duplicates can't both stay.
    """
    table = table.sort_values(["sha256", "label"], ignore_index=True)
    table["group"] = table["group"].where(table["group"].notna(), table["sha256"])
    given = _split_codes(table["split"])
    held = _held_codes(table["sha256"], earlier)
    _warn_of_moves(table, given, held)
    split = _splits(table, given, held, shares)
    assignments = _grown(earlier, table.assign(split=_names(split)), held == NONE, work)
    strays = (held != NONE) & (held != split)
    kept = table.assign(split=_names(split))[~strays].reset_index(drop=True)
    return Assigned(kept, assignments, _left_out(table, split, held, strays))


def _splits(table: pd.DataFrame, given: np.ndarray, held: np.ndarray, shares: config.Split) -> np.ndarray:
    """The split of each row's group, int64 [N]."""
    groups = pd.factorize(table["group"])[0]
    lacking = [split for split in (TEST, VALIDATION) if split not in given]
    fixed = np.where((given == TRAIN) & bool(lacking), NONE, given)
    of_held, of_given = (_greatest_of_each(groups, codes) for codes in (held, fixed))
    split = np.where(of_held != NONE, of_held, of_given)[groups]
    classes, sizes = pd.factorize(table["label"])[0], np.bincount(groups)
    # An image that the source gives no split may come into any. One that it gives to train may come only into a split
    # that the source lacks, and only after those without one: it is cut from train.
    order = np.lexsort((ranks(table["sha256"]), given != NONE, classes))
    for wanted, share in ((TEST, shares.test_share), (VALIDATION, shares.validation_share)):
        for _ in range(FILLING_ROUNDS):
            eligible = (split == NONE) & ((given == NONE) | (wanted in lacking))
            rows = order[eligible[order]]
            leaders = rows[np.sort(np.unique(groups[rows], return_index=True)[1])]  # one row for each group
            chosen = _that_fit(leaders, sizes[groups[leaders]], classes, _deficits(classes, split, wanted, share))
            split[np.isin(groups, groups[chosen])] = wanted
    split[split == NONE] = TRAIN
    return split


def _greatest_of_each(groups: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The greatest code among each group's rows."""
    greatest = np.full(groups.max(initial=-1) + 1, NONE)
    np.maximum.at(greatest, groups, codes)
    return greatest


def _names(codes: np.ndarray) -> np.ndarray:
    return np.array(SPLITS, dtype=object)[codes]


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


def _that_fit(leaders: np.ndarray, sizes: np.ndarray, classes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Of the leaders of groups, sorted by class, the first of each class whose groups fit into `counts[class]`."""
    fits = sizes <= counts[classes[leaders]]
    leaders, sizes = leaders[fits], sizes[fits]
    taken = np.cumsum(sizes)
    starts = np.searchsorted(classes[leaders], classes[leaders])  # where the leader's class begins
    taken -= (taken - sizes)[starts]
    return leaders[taken <= counts[classes[leaders]]]


def _grown(earlier: pd.DataFrame, table: pd.DataFrame, new: np.ndarray, work: str) -> pd.DataFrame:
    """The assignments with the new images, and with the groups as they are known now."""
    groups = earlier["sha256"].map(table.set_index("sha256")["group"])
    known = earlier.assign(group=groups.where(groups.notna(), earlier["group"]))
    fresh = table.loc[new, ["sha256", "split", "group"]].assign(run_id=work)
    return pd.concat([known, fresh], ignore_index=True)


def _left_out(table: pd.DataFrame, split: np.ndarray, held: np.ndarray, strays: np.ndarray) -> list[LeftOut]:
    """Why each stray has to go: it names the image that it is a near-duplicate of."""
    found = []
    for row in np.flatnonzero(strays).tolist():
        mates = (table["group"] == table.at[row, "group"]) & (split == split[row]) & ~strays
        reason = (
            f"it was first seen in {SPLITS[held[row]]}, and is a near-duplicate of {table.loc[mates, 'path'].iloc[0]} "
            f"in {SPLITS[split[row]]}: both can't stay"
        )
        found += name_rows(table.loc[[row]], reason)
    return found


def ranks(digests: pd.Series) -> np.ndarray:
    """A uniform uint64 for each digest: SplitMix64 (Steele et al. 2014) of its first 64 bits and a salt."""
    if digests.empty:
        return np.empty(0, np.uint64)
    leading = bytes.fromhex("".join(digests.str.slice(0, 16)))
    z = np.frombuffer(leading, ">u8").astype(np.uint64) + np.uint64(RANK_SALT)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


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
