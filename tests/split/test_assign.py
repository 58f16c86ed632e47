import hashlib
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.config import Split
from tasks.errors import InvalidDataError
from tasks.split import assign as module
from tasks.split.assign import RANK_SALT, make_snapshot
from tasks.storage.assignments import assignments_path, no_assignments
from tasks.storage.digests import uniform
from tasks.storage.snapshots import snapshot_id
from tasks.storage.tables import catalogue_schema, read_table, write_table
from tests.runs import make_catalogue, make_run

NOTHING = no_assignments()
SHARES = Split(validation_share=0.15, test_share=0.15)


def digest(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def images(numbers, label="cat", split=None):
    """Rows of a catalogue; what is not asked about is filled with something valid."""
    numbers = list(numbers)
    filled = catalogue_schema("image").empty_table().to_pandas().reindex(range(len(numbers)))
    filled[["copies", "size_bytes", "width_px", "height_px"]] = 1
    return filled.assign(
        sha256=[digest(n) for n in numbers],
        label=label,
        split=pd.Series([split] * len(numbers), dtype=object),
        path=[f"{label}/{n}.jpg" for n in numbers],
    )


def counts(table):
    return table.groupby("label")["split"].value_counts().to_dict()


def assign(table, earlier, shares, run_id):
    found = module.assign(table, earlier, shares, run_id)
    assert found.left_out == []
    return found.table, found.assignments


def splits_of(table):
    return dict(zip(table["sha256"], table["split"], strict=True))


def test_missing_splits_get_exact_shares_of_each_class():
    table, _ = assign(pd.concat([images(range(200)), images(range(200, 240), "dog")]), NOTHING, SHARES, "r1")
    assert counts(table) == {
        ("cat", "train"): 140,
        ("cat", "validation"): 30,
        ("cat", "test"): 30,
        ("dog", "train"): 28,
        ("dog", "validation"): 6,
        ("dog", "test"): 6,
    }


def test_the_smallest_class_has_one_image_in_each_split():
    table, _ = assign(images(range(3)), NOTHING, SHARES, "r1")
    assert counts(table) == {("cat", "train"): 1, ("cat", "validation"): 1, ("cat", "test"): 1}


def test_cutting_a_test_set_leaves_the_last_training_image():
    table, _ = assign(
        pd.concat([images([1], split="train"), images([2, 3], split="validation")]), NOTHING, SHARES, "r1"
    )
    assert counts(table) == {("cat", "train"): 1, ("cat", "validation"): 2}


def test_given_splits_are_taken_as_they_are():
    source = pd.concat([images(range(6), split="train"), images(range(6, 9), split="validation")])
    table, _ = assign(pd.concat([source, images([9], split="test")]), NOTHING, SHARES, "r1")
    assert counts(table) == {("cat", "train"): 6, ("cat", "validation"): 3, ("cat", "test"): 1}


def test_a_test_set_that_the_source_lacks_is_cut_from_train_alone():
    validation = images(range(80, 100), split="validation")
    table, _ = assign(pd.concat([images(range(80), split="train"), validation]), NOTHING, SHARES, "r1")
    assert counts(table) == {("cat", "train"): 65, ("cat", "validation"): 20, ("cat", "test"): 15}
    assert set(table.loc[table["split"] == "validation", "sha256"]) == set(validation["sha256"])


def test_images_without_a_split_fill_what_the_given_ones_leave():
    given = pd.concat([images(range(40), split="train"), images(range(40, 45), split="test")])
    table, _ = assign(pd.concat([given, images(range(45, 100))]), NOTHING, SHARES, "r1")
    assert counts(table) == {("cat", "train"): 70, ("cat", "validation"): 15, ("cat", "test"): 15}
    assert splits_of(given).items() <= splits_of(table).items()


def test_an_image_keeps_its_split_when_the_source_changes_its_mind(caplog):
    _, assigned = assign(pd.concat([images(range(8), split="train"), images([8], split="test")]), NOTHING, SHARES, "r1")
    changed = pd.concat([images(range(1, 9), split="train"), images([0], split="test")])
    table, _ = assign(changed, assigned, SHARES, "r2")
    assert splits_of(table)[digest(8)] == "test"
    assert splits_of(table)[digest(0)] == "train"
    assert "cat/8.jpg (stays test, now given as train)" in caplog.text
    assert "2 images keep their split" in caplog.text


def test_a_test_set_cut_from_train_is_no_change_of_mind(caplog):
    source = images(range(40), split="train")
    first, assigned = assign(source, NOTHING, SHARES, "r1")
    second, again = assign(source, assigned, SHARES, "r2")
    assert (second.equals(first), len(again), caplog.text) == (True, len(assigned), "")


def test_names_order_and_seeds_play_no_part():
    source = images(range(100))
    shuffled = source.sample(frac=1, random_state=3).assign(path="elsewhere")
    assert splits_of(assign(source, NOTHING, SHARES, "a")[0]) == splits_of(assign(shuffled, NOTHING, SHARES, "b")[0])


def grouped(table, *groups):
    """The table with groups of the given numbers' images."""
    names = table["sha256"].copy()
    for numbers in groups:
        names[table["sha256"].isin([digest(n) for n in numbers])] = digest(numbers[0])
    return table.assign(group=names)


def test_near_duplicates_go_into_one_split():
    source = grouped(images(range(100)), *[(n, n + 1, n + 2) for n in range(0, 60, 3)])
    table, _ = assign(source, NOTHING, SHARES, "r1")
    assert (table.groupby("group")["split"].nunique() == 1).all()
    assert counts(table) == {("cat", "train"): 70, ("cat", "validation"): 15, ("cat", "test"): 15}


def test_a_new_near_duplicate_joins_its_group_whatever_the_source_says():
    first = grouped(pd.concat([images(range(20), split="train"), images([20], split="test")]))
    _, assigned = assign(first, NOTHING, SHARES, "r1")
    later = pd.concat([first, images([30], split="train"), images([31])])
    table, _ = assign(grouped(later, (20, 30, 31)), assigned, SHARES, "r2")
    assert {splits_of(table)[digest(n)] for n in (20, 30, 31)} == {"test"}


def test_a_group_given_several_splits_at_once_guards_the_test_set():
    given = pd.concat([images(range(10), split="train"), images(range(10, 12), split="validation")])
    table, _ = assign(grouped(pd.concat([given, images([12], split="test")]), (0, 12), (1, 11)), NOTHING, SHARES, "r1")
    assert [splits_of(table)[digest(n)] for n in (0, 12, 1, 11)] == ["test", "test", "validation", "validation"]


def test_an_image_that_proves_a_leak_makes_the_older_training_image_go():
    first = grouped(pd.concat([images(range(9), split="train"), images([9], split="test")]))
    _, assigned = assign(first, NOTHING, SHARES, "r1")
    later = grouped(pd.concat([first, images([30], split="train")]), (0, 9, 30))
    for run_id in ("r2", "r3"):
        found = module.assign(later, assigned, SHARES, run_id)
        assigned = found.assignments
        assert [(item.path, item.sha256) for item in found.left_out] == [("cat/0.jpg", digest(0))]
        assert "first assigned to train, but has a near-duplicate in test: cat/" in found.left_out[0].reason
        assert digest(0) not in splits_of(found.table)
        assert splits_of(found.table)[digest(30)] == "test"
    assert splits_of(assigned)[digest(0)] == "train"
    assert assigned.set_index("sha256")["group"][[digest(0), digest(9), digest(30)]].nunique() == 1


@settings(max_examples=8, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=20, max_size=20),
    order=st.randoms(use_true_random=False),
    partly_given=st.booleans(),
)
def test_a_source_that_grows_in_random_batches_never_moves_an_image(sizes, order, partly_given):
    first, later = list(range(9)), list(range(9, 9 + sum(sizes)))  # of the first each class has images for every split
    order.shuffle(first)
    order.shuffle(later)
    numbers = first + later
    source = images(numbers).assign(label=[("cat", "dog")[n % 2] for n in numbers])
    if partly_given:
        source["split"] = pd.Series([("train", None, "test")[n % 3] for n in numbers], dtype=object)
    taken, assigned, seen = 9, NOTHING, {}
    for number, size in enumerate([0, *sizes]):
        taken += size
        table, assigned = assign(source.head(taken), assigned, SHARES, f"r{number}")
        now = splits_of(table)
        assert seen.items() <= now.items()
        assert set(now.values()) == {"train", "validation", "test"}
        seen = now
    assert splits_of(assigned) == seen


def test_shares_hold_while_a_source_grows():
    assigned, table = NOTHING, NOTHING
    for taken in range(10, 1001, 90):
        table, assigned = assign(images(range(taken)), assigned, SHARES, f"r{taken}")
    assert counts(table) == {("cat", "train"): 700, ("cat", "validation"): 150, ("cat", "test"): 150}


def test_ranks_are_uniform_and_fixed():
    values = uniform(pd.Series([digest(n) for n in range(4000)]), RANK_SALT)
    assert abs(values.astype(float).mean() / 2**64 - 0.5) < 0.02
    assert int(uniform(pd.Series([digest(0)]), RANK_SALT)[0]) == 4047728091875069215


def test_a_hundred_thousand_images_take_a_moment():
    count = 100_000
    digests = [f"{n:016x}{0:048x}" for n in np.random.default_rng(1).integers(0, 2**63, count)]
    table = pd.DataFrame(
        {"sha256": digests, "path": "x", "group": None, "split": pd.Series([None] * count, dtype=object)}
    )
    table["label"] = pd.Series(np.arange(count) % 100).map("class{:02d}".format)
    started = time.perf_counter()
    _, assigned = assign(table[: count * 9 // 10], NOTHING, SHARES, "r1")
    both, _ = assign(table, assigned, SHARES, "r2")
    snapshot_id(both)
    assert time.perf_counter() - started < 10
    assert both["split"].value_counts()["test"] == count * 15 // 100


def catalogue_of(run, table):
    write_table(run.workspace, run.path("validated.parquet"), table, catalogue_schema("image"))
    return make_catalogue(run, "validated.parquet", images=len(table), quarantined=2, work=run.run_id)


def test_a_snapshot_is_named_by_its_content(tmp_path):
    run = make_run(tmp_path / "w", "s")
    snapshot = make_snapshot(run, catalogue_of(run, pd.concat([images(range(9)), images(range(9, 20), "dog")])))
    assert (snapshot.labels, snapshot.images, snapshot.new, snapshot.catalogue.quarantined) == (
        ("cat", "dog"),
        20,
        20,
        2,
    )
    table = read_table(run.workspace, snapshot.table_path)
    lines = sorted(f"{row.sha256}\t{row.label}\t{row.split}" for row in table.itertuples())
    assert snapshot.id == hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert snapshot.table_path == f"snapshots/{snapshot.id}.parquet"


def test_new_counts_what_the_model_never_met_also_in_a_retry(tmp_path):
    first = make_run(tmp_path / "w", "s", "r1")
    before = make_snapshot(first, catalogue_of(first, images(range(20))))
    for _ in range(2):
        run = make_run(tmp_path / "w", "s", "r2")
        assert make_snapshot(run, catalogue_of(run, images(range(23)))).new == 3
    again = make_run(tmp_path / "w", "s", "r3")
    assert make_snapshot(again, catalogue_of(again, images(range(20)))) == replace(before, new=0)


def test_lost_assignments_are_made_again_from_the_snapshots_of_the_name(tmp_path, caplog):
    run = make_run(tmp_path / "w", "s", "r1")
    before = make_snapshot(run, catalogue_of(run, pd.concat([images(range(4), split="test"), images(range(4, 40))])))
    run.workspace.remove(assignments_path("shapes"))
    run = make_run(tmp_path / "w", "s", "r2")
    after = make_snapshot(run, catalogue_of(run, images(range(60))))
    old, new = (splits_of(read_table(run.workspace, ref.table_path)) for ref in (before, after))
    assert {sha256: new[sha256] for sha256 in old} == old
    assert "made again from 1 snapshots" in caplog.text


def test_a_class_without_training_images_stops_the_run(tmp_path):
    run = make_run(tmp_path / "w", "s")
    table = pd.concat([images(range(9), split="train"), images(range(9, 12), "dog", split="test")])
    with pytest.raises(InvalidDataError, match=r"'dog' \(0 in validation, 3 in test\)"):
        make_snapshot(run, catalogue_of(run, table))


@pytest.mark.parametrize(("total", "share"), [(100, 0.2), (250, 0.2), (400, 0.125), (500, 0.1), (5000, 0.1)])
def test_small_sets_keep_more_for_the_test(total, share):
    table, _ = assign(images(range(total)), NOTHING, Split(), "r")
    assert counts(table)["cat", "test"] == total * share


def test_the_share_falls_as_the_source_grows_and_no_image_leaves_the_test_split():
    few, assigned = assign(images(range(200)), NOTHING, Split(), "r1")
    many, _ = assign(images(range(1000)), assigned, Split(), "r2")
    before, after = (set(table.loc[table["split"] == "test", "sha256"]) for table in (few, many))
    assert before <= after
    assert (len(before), len(after)) == (40, 100)
