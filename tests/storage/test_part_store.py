"""The content-addressed store: nothing half written, nothing damaged unnoticed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.storage import digests
from tasks.storage.part_store import ROW_GROUP_BYTES, PartStore
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


def append_some(folder: Path, writer: int) -> None:
    """Half of what each process writes is what the others write, too."""
    store = make_store(folder)
    for number in range(25):
        store.append(rows((f"shared{number}", number)))
        store.append(rows((f"own{writer}-{number}", number)))


def test_processes_that_write_at_the_same_time_lose_nothing(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=append_some, args=(tmp_path, writer)) for writer in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    own = {(f"own{writer}-{number}",) for writer in range(3) for number in range(25)}
    assert make_store(tmp_path).keys() == own | {(f"shared{number}",) for number in range(25)}
    assert not list(tmp_path.glob("things/.*"))


WRITER = """
import sys
from tests.storage.test_part_store import make_store, rows
from pathlib import Path
store = make_store(Path(sys.argv[1]))
for number in range(1_000_000):
    store.append(rows(*((f"{number}-{row}", row) for row in range(20_000))))
    print(number, flush=True)
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.003, 0.011])
def test_a_writer_that_is_killed_leaves_no_half_row(tmp_path: Path, delay_s: float):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE)
    assert writer.stdout
    written = [int(writer.stdout.readline()) for _ in range(3)]
    time.sleep(delay_s)  # somewhere in a later part
    os.kill(writer.pid, signal.SIGKILL)
    written += [int(line) for line in writer.stdout]
    writer.wait()
    found: dict[str, set[int]] = {}
    for part in make_store(tmp_path).read():
        for key, value in zip(part["sha256"].to_pylist(), part["value"].to_pylist(), strict=True):
            found.setdefault(key.split("-")[0], set()).add(value)
    assert {str(number) for number in written} <= found.keys()
    assert all(values == set(range(20_000)) for values in found.values())


def test_a_part_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store, hashed = make_store(tmp_path), []
    path = store.append(rows(("a", 1)))
    digest_of = digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda place, file: hashed.append(file) or digest_of(place, file))
    for _ in range(3):
        assert make_store(tmp_path).keys() == {("a",)}
    assert hashed == [path]
    os.utime(tmp_path / path, (0, 0))
    store.keys()
    assert hashed == [path, path]


def test_rows_come_a_few_at_a_time(tmp_path: Path):
    store = make_store(tmp_path)
    store.append(rows(*((f"{number:064}", number) for number in range(300_000))))
    tables = list(store.read())
    assert len(tables) > 2
    assert max(table.nbytes for table in tables) < 2 * ROW_GROUP_BYTES
    assert sum(table.num_rows for table in tables) == 300_000
