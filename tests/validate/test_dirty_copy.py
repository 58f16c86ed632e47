"""The acceptance of validation: a dirty copy of real photographs, in which it is known what is wrong."""

import pandas as pd
import pytest

from tasks.ingest.catalogue import build_catalogue
from tasks.split.assign import make_snapshot
from tasks.storage.quarantine import run_quarantine
from tasks.storage.tables import read_table
from tasks.validate.validation import validate
from tests.dirty import make_dirty
from tests.photos import SHARED_CLOTHING
from tests.runs import make_run

pytestmark = pytest.mark.skipif(not SHARED_CLOTHING.exists(), reason="needs the photographs in ../shared")


@pytest.fixture(scope="module")
def dirty(tmp_path_factory):
    """What was planted, the snapshot's table by path, and the quarantine's reasons by path."""
    folder = tmp_path_factory.mktemp("dirty")
    planted = make_dirty(SHARED_CLOTHING, folder / "photos", seed=7)
    run = make_run(folder / "workspace", folder / "photos")
    snapshot = make_snapshot(run, validate(run, build_catalogue(run)))
    table = read_table(run.workspace, snapshot.table_path).set_index("path")
    return planted, table, {entry.path: entry.reason for entry in run_quarantine(run)}


def test_every_corrupt_file_is_quarantined_by_name(dirty):
    planted, _, quarantined = dirty
    assert len(planted.corrupt) == 68
    assert set(planted.corrupt) <= set(quarantined)


def test_every_exact_copy_is_one_image_with_its_original(dirty):
    planted, table, _ = dirty
    for copy, original in planted.exact:
        assert (copy in table.index) + (original in table.index) == 1
        assert table.loc[[path for path in (copy, original) if path in table.index], "copies"].item() == 2


def test_near_duplicates_are_found_and_little_else(dirty):
    planted, table, quarantined = dirty
    found = [
        table.at[copy, "group"] == table.at[original, "group"]
        for copy, original, _ in planted.near
        if copy in table.index and original in table.index
    ]
    conflicting = sum(copy in quarantined and original in quarantined for copy, original, _ in planted.near)
    assert (sum(found) + conflicting) / len(planted.near) >= 0.95
    involved = {path for copy, original, _ in planted.near for path in (copy, original)}
    groups = table["group"].value_counts()
    grouped = set(table.index[table["group"].map(groups) > 1]) | {
        path for path, reason in quarantined.items() if "one-label-per-picture" in reason
    }
    assert len(grouped - involved) <= 0.005 * len(table)


def test_no_group_leaks_from_train_into_test(dirty):
    planted, table, _ = dirty
    assert table.groupby("group")["split"].nunique().max() == 1
    truth = pd.DataFrame([pair[:2] for pair in planted.near], columns=["copy", "original"])
    splits = table["split"]
    leaks = {frozenset((splits.get(a, "gone"), splits.get(b, "gone"))) for a, b in truth.itertuples(index=False)}
    assert frozenset(("train", "test")) not in leaks


def test_odd_files_are_used_and_litter_is_passed_over(dirty):
    planted, table, quarantined = dirty
    assert set(planted.odd) <= set(table.index)
    assert not {path for path in planted.litter if path in table.index or path in quarantined}
    assert set(quarantined) - set(planted.corrupt) <= {
        path for path, reason in quarantined.items() if "one-label-per-picture" in reason
    }
