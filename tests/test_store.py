"""The content-addressed store: nothing half written, nothing damaged unnoticed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.errors import WorkspaceError
from tasks.features import append_rows, feature_store, load_features
from tasks.store import PartStore
from tasks.workspace import Workspace

SCHEMA = pa.schema([("sha256", pa.string()), ("value", pa.int64())])


def make_store(folder: Path) -> PartStore:
    return PartStore(Workspace(str(folder)), "things", SCHEMA, ["sha256"])


def rows(*pairs: tuple[str, int]) -> pa.Table:
    return pa.table({"sha256": [key for key, _ in pairs], "value": [value for _, value in pairs]}, schema=SCHEMA)


def test_rows_come_back_and_equal_parts_are_one(tmp_path: Path):
    store = make_store(tmp_path)
    assert store.append(rows(("a", 1))) == store.append(rows(("a", 1)))
    store.append(rows(("b", 2)))
    assert store.keys() == {("a",), ("b",)}
    assert len(store.parts()) == 2
    assert store.append(rows()) == ""


def test_a_damaged_part_is_dropped_and_can_be_made_again(tmp_path: Path):
    store = make_store(tmp_path)
    path = tmp_path / store.append(rows(("a", 1)))
    store.append(rows(("b", 2)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    assert store.keys() == {("b",)}
    assert not path.exists()
    store.append(rows(("a", 1)))
    assert store.keys() == {("a",), ("b",)}


def test_an_interrupted_write_leaves_no_part(tmp_path: Path):
    store = make_store(tmp_path)
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / ".abc.parquet.123.part").write_bytes(b"half a ")
    assert store.keys() == set()


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path):
    store = make_store(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.append(rows((f"k{n % 40}", n % 40))), range(200)))
    assert store.keys() == {(f"k{n}",) for n in range(40)}


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
