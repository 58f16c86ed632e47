"""Rows of features by image and view: each is found once, in the order asked for, and a missing one is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.errors import WorkspaceError
from tasks.storage.feature_store import (
    append_rows,
    feature_store,
    load_features,
    load_rows,
    row_blocks_of,
    stored_views,
)
from tasks.workspace import Workspace

DIGESTS = [f"{number:064x}" for number in range(60)]
VALUES = np.random.default_rng(0).normal(size=(2, len(DIGESTS), 7)).astype(np.float16)  # [view, image, D]


@pytest.fixture
def stored(tmp_path: Path) -> Workspace:
    """Both views of all images, in six parts whose rows are in no order."""
    workspace = Workspace(str(tmp_path))
    places = np.random.default_rng(1).permutation(2 * len(DIGESTS))
    for part in np.array_split(places, 6):
        views, images = np.divmod(part, len(DIGESTS))
        append_rows(workspace, "r", [DIGESTS[image] for image in images], views.tolist(), VALUES[views, images])
    return workspace


def test_what_is_stored_is_known_by_image_and_view(tmp_path: Path):
    workspace = Workspace(str(tmp_path))
    append_rows(workspace, "r", ["a", "a", "b"], [0, 1, 0], np.ones((3, 2), np.float16))
    assert stored_views(workspace, "r", ["b", "zz", "a"], 2).tolist() == [[True, False], [False, False], [True, True]]
    assert not stored_views(workspace, "other", ["a"], 1).any()


def test_rows_are_laid_out_view_by_view(tmp_path: Path):
    workspace = Workspace(str(tmp_path))
    values = np.arange(12, dtype=np.float16).reshape(4, 3)
    append_rows(workspace, "r", ["a", "b", "a", "b"], [1, 0, 0, 1], values)
    with load_rows(workspace, "r", ["b", "a"], [0, 1]) as laid:
        assert (laid[:] == values[[1, 2, 3, 0]]).all()
    with pytest.raises(WorkspaceError, match="1 of 2 images have no row"):
        load_rows(workspace, "r", ["b", "zz"], [0, 1])


def test_features_come_back_in_the_order_asked_for(tmp_path: Path):
    workspace = Workspace(str(tmp_path))
    values = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float16)
    append_rows(workspace, "r", list("abc"), [0, 0, 0], values[:3])
    append_rows(workspace, "r", ["a", "b", "a"], [1, 1, 0], values[[3, 4, 0]])

    assert (load_features(workspace, "r", ["c", "a", "c"], 0) == values[[2, 0, 2]]).all()
    assert (load_features(workspace, "r", ["b", "a"], 1) == values[[4, 3]]).all()
    assert ("a", 1) in set(feature_store(workspace, "r").keys())
    with pytest.raises(WorkspaceError, match="1 of 2 images have no row"):
        load_features(workspace, "r", ["a", "zz"], 0)


def test_parts_in_no_order_give_rows_in_the_order_asked_for(stored: Workspace):
    order = np.random.default_rng(2).permutation(len(DIGESTS))[:40]
    wanted = [DIGESTS[image] for image in order]
    for view in (0, 1):
        assert (load_features(stored, "r", wanted, view) == VALUES[view, order]).all()
    with load_rows(stored, "r", wanted, [1, 0]) as laid:
        assert (laid[:] == np.concatenate([VALUES[1, order], VALUES[0, order]])).all()


def test_a_row_that_two_parts_hold_counts_once(stored: Workspace):
    append_rows(stored, "r", [DIGESTS[3], "f" * 64], [0, 0], np.stack([VALUES[0, 3], VALUES[0, 0]]))
    assert (load_features(stored, "r", DIGESTS, 0) == VALUES[0]).all()
    assert stored_views(stored, "r", [DIGESTS[3]], 2).tolist() == [[True, True]]


def test_rows_come_in_blocks_each_image_once(stored: Workspace):
    append_rows(stored, "r", DIGESTS[:5], [0] * 5, VALUES[0, :5])  # a second time
    wanted = [DIGESTS[image] for image in (7, 3, 50, 4)] + ["f" * 64]  # the last one has no row
    found = list(row_blocks_of(stored, "r", wanted))
    places = np.concatenate([places for places, _ in found])
    rows = np.concatenate([rows for _, rows in found])
    assert sorted(places.tolist()) == [0, 1, 2, 3]
    assert rows.dtype == np.float32
    assert (rows[np.argsort(places)] == VALUES[0, [7, 3, 50, 4]]).all()


def test_a_part_without_a_wanted_row_is_not_even_checked(tmp_path: Path):
    workspace = Workspace(str(tmp_path))
    append_rows(workspace, "r", ["a"], [0], np.ones((1, 2), np.float16))
    [ours] = feature_store(workspace, "r").parts()
    append_rows(
        workspace, "r", [f"{number:064x}" for number in range(5000)], [0] * 5000, np.ones((5000, 2), np.float16)
    )
    [other] = set(feature_store(workspace, "r").parts()) - {ours}
    path = Path(workspace.path(other))
    content = path.read_bytes()
    where = content.index(np.ones(100, np.float16).tobytes())
    path.write_bytes(content[:where] + b"\x01" + content[where + 1 :])  # damage in the rows, none in the keys
    assert (load_features(workspace, "r", ["a"], 0) == 1).all()
    assert path.exists()
    with pytest.raises(WorkspaceError, match="1 of 1 images have no row"):
        load_features(workspace, "r", ["0" * 64], 0)
    assert not path.exists()


def test_rows_keep_the_type_that_they_were_written_in(tmp_path: Path):
    workspace = Workspace(str(tmp_path))
    values = np.random.default_rng(3).normal(size=(2, 5)).astype(np.float32)
    append_rows(workspace, "keras", DIGESTS[:2], [0, 0], values)
    found = load_features(workspace, "keras", DIGESTS[:2], 0, np.float32)
    assert found.dtype == np.float32
    assert (found == values).all()


def test_rows_of_another_key_are_not_found(stored: Workspace):
    append_rows(stored, "other", ["f" * 64], [0], VALUES[0, :1])
    assert not stored_views(stored, "r", ["f" * 64], 1).any()
    with pytest.raises(WorkspaceError, match="1 of 1 images have no row in features/r"):
        load_features(stored, "r", ["f" * 64], 0)


def test_rows_of_a_damaged_part_are_missing_and_the_error_says_what_to_do(stored: Workspace):
    path = Path(stored.path(feature_store(stored, "r").parts()[0]))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    lost = int((~stored_views(stored, "r", DIGESTS, 2)).sum())
    assert lost == 20  # a sixth of them
    with pytest.raises(WorkspaceError, match=r"of 60 images have no row .*view 0, 1.*run the retrain again"):
        load_rows(stored, "r", DIGESTS, [0, 1])


def test_laid_out_rows_leave_nothing_in_the_workspace(stored: Workspace):
    before = sorted(Path(stored.path("")).rglob("*"))
    with load_rows(stored, "r", DIGESTS, [0]) as laid:
        assert len(laid) == len(DIGESTS)
    assert sorted(Path(stored.path("")).rglob("*")) == before


@pytest.mark.parametrize("stored_as", [np.float16, np.float32])
@pytest.mark.parametrize("asked_for", [np.float16, np.float32])
def test_rows_have_all_their_columns_in_whichever_type_they_are_asked_for(tmp_path: Path, stored_as, asked_for):
    workspace = Workspace(str(tmp_path))
    values = VALUES[0, :3].astype(stored_as)
    append_rows(workspace, "r", list("abc"), [0, 0, 0], values)
    found = load_features(workspace, "r", list("abc"), 0, asked_for)
    assert (found.dtype, found.shape) == (asked_for, values.shape)
    assert (found == values).all()
    with load_rows(workspace, "r", list("abc"), [0], asked_for) as rows:
        assert (rows[:] == values).all()


def test_rows_of_an_earlier_version_which_do_not_name_their_type_are_read_as_they_were(tmp_path: Path):
    workspace = Workspace(str(tmp_path))
    values = VALUES[0, :3]
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(14), 3, [None, pa.py_buffer(np.ascontiguousarray(values))])
    store = feature_store(workspace, "r", 14)
    store.append(pa.table([pa.array(list("abc")), pa.array([0, 0, 0], pa.int16()), column], schema=store.schema))
    assert (load_features(workspace, "r", list("abc"), 0) == values).all()
