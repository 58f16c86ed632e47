"""Permanent splits: an image keeps its first split in every later snapshot.

Near-duplicates share a split: a new image joins the split of its group. Otherwise it takes the split that the source
gives. Missing splits are made class by class: new groups are ranked by a salted hash of a digest, and the first ones
fill what their class lacks in test, then in validation; the rest is for training. So splits depend only on the images
and the order of their arrival, never on a seed or a file name.
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
from tasks.storage.digests import uniform
from tasks.storage.quarantine import LeftOut, name_rows, quarantine
from tasks.storage.snapshots import write_snapshot
from tasks.storage.tables import read_table

log = logging.getLogger(__name__)

TRAIN, VALIDATION, TEST = range(len(SPLITS))  # of several splits in one group, the greatest wins
NONE = -1
# Makes the ranks independent of other uses of the leading bytes of digests.
RANK_SALT = 0x9E3779B97F4A7C15
# A group of several images may not fit where a single image does, so several rounds fill the remaining gaps.
FILLING_ROUNDS = 3


@dataclass(frozen=True)
class Assigned:
    """A catalogue with its splits, the extended assignments, and the images to leave out."""

    table: pd.DataFrame
    assignments: pd.DataFrame
    left_out: list[LeftOut]


def make_snapshot(run: Run, catalogue: Catalogue) -> Snapshot:
    """Assigns a split to every image of a catalogue, and writes the snapshot and the extended assignments.

    The assignments are written first: after a crash between the two writes, the next run recognises the images by
    their work, and makes the same snapshot.

    Raises:
        InvalidDataError: a class has no training image.
    """
    table = read_table(run.workspace, catalogue.table_path)
    found = assign(table, read_assignments(run), run.config.split, catalogue.work, run.config.task)
    table = found.table
    _check_training_images(table, run.config.task)
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


def assign(
    table: pd.DataFrame, earlier: pd.DataFrame, shares: config.Split, work: str, task: str = "image"
) -> Assigned:
    """The splits of a catalogue's images.

    Args:
        table: a catalogue; `split` is null where the source gives none, `group` where an image is alone.
        earlier: the assignments so far.
        shares: of each class that validation and test get, where the source does not give these splits.
        work: identifies the new images, see `work_of`.

    Returns:
        The table, sorted by (sha256, label), with every split and group filled. Left out are images whose group turns
        out to have another split than they were first given.
    """
    table = table.sort_values(["sha256", "label"], ignore_index=True)
    table["group"] = table["group"].where(table["group"].notna(), table["sha256"])
    given = _split_codes(table["split"])
    assigned = _earlier_codes(table["sha256"], earlier)
    _warn_of_moves(table, given, assigned, task)
    split = _splits(table, given, assigned, shares)
    assignments = _grown(earlier, table.assign(split=_names(split)), assigned == NONE, work)
    strays = (assigned != NONE) & (assigned != split)
    kept = table.assign(split=_names(split))[~strays].reset_index(drop=True)
    return Assigned(kept, assignments, _left_out(table, split, assigned, strays))


def _splits(table: pd.DataFrame, given: np.ndarray, assigned: np.ndarray, shares: config.Split) -> np.ndarray:
    """The split of each row's group, int64 [N]."""
    groups = pd.factorize(table["group"])[0]
    lacking = [split for split in (TEST, VALIDATION) if split not in given]
    fixed = np.where((given == TRAIN) & bool(lacking), NONE, given)
    by_assigned, by_given = (_greatest_by_group(groups, codes) for codes in (assigned, fixed))
    split = np.where(by_assigned != NONE, by_assigned, by_given)[groups]
    classes, sizes = pd.factorize(table["label"])[0], np.bincount(groups)
    # Images without a given split may get any split. Images given as train may only get a split that the source lacks,
    # and only after the images without a given split.
    order = np.lexsort((uniform(table["sha256"], RANK_SALT), given != NONE, classes))
    for wanted, share in ((TEST, shares.test_share_of(len(table))), (VALIDATION, shares.validation_share)):
        for _ in range(FILLING_ROUNDS):
            eligible = (split == NONE) & ((given == NONE) | (wanted in lacking))
            rows = order[eligible[order]]
            leaders = rows[np.sort(np.unique(groups[rows], return_index=True)[1])]  # one row for each group
            chosen = _that_fit(leaders, sizes[groups[leaders]], classes, _deficits(classes, split, wanted, share))
            split[np.isin(groups, groups[chosen])] = wanted
    split[split == NONE] = TRAIN
    return split


def _greatest_by_group(groups: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The greatest code of each group's rows."""
    greatest = np.full(groups.max(initial=-1) + 1, NONE)
    np.maximum.at(greatest, groups, codes)
    return greatest


def _names(codes: np.ndarray) -> np.ndarray:
    return np.array(SPLITS, dtype=object)[codes]


def _split_codes(splits: pd.Series) -> np.ndarray:
    """Indices into SPLITS, int64 [N], -1 for null."""
    return pd.Categorical(splits, categories=list(SPLITS)).codes.astype(np.int64)


def _earlier_codes(digests: pd.Series, earlier: pd.DataFrame) -> np.ndarray:
    """The split that each image has already, int64 [N], -1 for a new image."""
    place = pd.Index(earlier["sha256"]).get_indexer(pd.Index(digests))
    codes = np.append(_split_codes(earlier["split"]), NONE)  # place -1 selects the last
    return codes[place]


def _deficits(classes: np.ndarray, split: np.ndarray, wanted: int, share: float) -> np.ndarray:
    """How many images each class lacks in the `wanted` split: its rounded share, at least one, less those it has.

    At least one image of each class is left for training.
    """
    sizes = np.bincount(classes)
    due = np.maximum(np.rint(sizes * share).astype(np.int64), 1)
    has = np.bincount(classes[split == wanted], minlength=len(sizes))
    trainable = np.bincount(classes[(split == TRAIN) | (split == NONE)], minlength=len(sizes))
    return np.minimum(due - has, trainable - 1)


def _that_fit(leaders: np.ndarray, sizes: np.ndarray, classes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """From group leaders sorted by class: the first ones of each class whose groups fit into `counts[class]`."""
    fits = sizes <= counts[classes[leaders]]
    leaders, sizes = leaders[fits], sizes[fits]
    taken = np.cumsum(sizes)
    starts = np.searchsorted(classes[leaders], classes[leaders])  # where the leader's class begins
    taken -= (taken - sizes)[starts]
    return leaders[taken <= counts[classes[leaders]]]


def _grown(earlier: pd.DataFrame, table: pd.DataFrame, new: np.ndarray, work: str) -> pd.DataFrame:
    """The assignments with the new images and the present groups."""
    groups = earlier["sha256"].map(table.set_index("sha256")["group"])
    known = earlier.assign(group=groups.where(groups.notna(), earlier["group"]))
    fresh = table.loc[new, ["sha256", "split", "group"]].assign(run_id=work)
    return pd.concat([known, fresh], ignore_index=True)


def _left_out(table: pd.DataFrame, split: np.ndarray, assigned: np.ndarray, strays: np.ndarray) -> list[LeftOut]:
    """The strays with the reason, which names the near-duplicate of each."""
    found = []
    for row in np.flatnonzero(strays).tolist():
        mates = (table["group"] == table.at[row, "group"]) & (split == split[row]) & ~strays
        reason = (
            f"it was first assigned to {SPLITS[assigned[row]]}, but has a near-duplicate in {SPLITS[split[row]]}: "
            f"{table.loc[mates, 'path'].iloc[0]}"
        )
        found += name_rows(table.loc[[row]], reason)
    return found


def _warn_of_moves(table: pd.DataFrame, given: np.ndarray, assigned: np.ndarray, task: str) -> None:
    """Warns of images that the source now gives another split than they have.

    They keep their split: training on test images, or testing on training images, would make comparisons worthless.
    """
    moved = (assigned != NONE) & (given != NONE) & (assigned != given)
    # Where a source has no test (or validation) set, ours was taken from its train set: that is no change.
    moved &= (given != TRAIN) | np.isin(assigned, given)
    if rows := np.flatnonzero(moved).tolist():
        examples = ", ".join(
            f"{table.at[row, 'path']} (stays {SPLITS[assigned[row]]}, now given as {SPLITS[given[row]]})"
            for row in rows[:3]
        )
        sentence = "%d %ss keep their split, although the source now gives another one: %s"
        log.warning(sentence, len(rows), task, examples)


def _check_training_images(table: pd.DataFrame, task: str) -> None:
    sizes = pd.crosstab(table["label"], table["split"]).reindex(columns=list(SPLITS), fill_value=0)
    without = sizes[sizes["train"] == 0]
    if len(without):
        found = (f"{label!r} ({row.validation} in validation, {row.test} in test)" for label, row in without.iterrows())
        raise InvalidDataError(
            [f"no training {task} in the class {', '.join(found)}: give it some, or take it out of the other splits"]
        )
