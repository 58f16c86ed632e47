"""Rows on disk read like the array that they were filled from."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import WorkspaceError
from tasks.storage.rows import Rows, row_blocks


def filled(values: np.ndarray, folder: Path) -> Rows:
    rows = Rows(len(values), values.shape[1], values.dtype, folder)
    rows[:] = values
    return rows


def test_they_read_like_an_array(tmp_path: Path):
    values = np.random.default_rng(0).normal(size=(500, 7)).astype(np.float16)
    rows = filled(values, tmp_path)
    assert (rows.shape, rows.dtype, rows.nbytes, len(rows)) == (values.shape, values.dtype, values.nbytes, 500)
    for indices in ([3, 4, 5, 5, 499, 0], [], np.random.default_rng(1).permutation(500)):
        chosen = np.array(indices, np.int64)
        assert (rows[chosen] == values[chosen]).all()
    assert (rows[10:400:3] == values[10:400:3]).all()
    assert (np.concatenate(list(row_blocks(rows, block_bytes=100))) == values).all()


def test_they_are_filled_in_any_order(tmp_path: Path):
    values = np.arange(60, dtype=np.float32).reshape(20, 3)
    rows = Rows(20, 3, np.float32, tmp_path)
    order = np.random.default_rng(2).permutation(20)
    for part in np.array_split(order, 6):
        rows[part] = values[part]
    assert (rows[:] == values).all()
    with pytest.raises(ValueError, match="2 rows of 3 values"):
        rows[np.array([0, 1])] = values[:3]


@pytest.mark.parametrize("wrong", [[-1], [20], [3, 99]])
def test_no_index_leads_out(tmp_path: Path, wrong: list[int]):
    with pytest.raises(IndexError):
        Rows(20, 3, np.float16, tmp_path)[np.array(wrong)]


def test_nothing_is_left_behind(tmp_path: Path):
    with filled(np.ones((10, 4), np.float16), tmp_path) as rows:
        assert list(tmp_path.iterdir()) == []
        assert len(rows) == 10
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_shows_before_the_work(tmp_path: Path):
    free = os.statvfs(tmp_path)
    too_many = free.f_blocks * free.f_frsize // 1000 + 1
    with pytest.raises(WorkspaceError, match="GB of scratch space"):
        Rows(too_many, 1000, np.uint8, tmp_path)
