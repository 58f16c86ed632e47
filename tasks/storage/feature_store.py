"""Feature rows in the workspace: one Parquet store for each key, keyed by (image sha256, view)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from tasks.errors import WorkspaceError
from tasks.storage.part_store import PartStore
from tasks.storage.rows import Rows
from tasks.workspace import Workspace

KEY = ("sha256", "view")
T = TypeVar("T", Rows, np.ndarray)
DTYPE = b"dtype"
DIGEST = np.dtype("S64")  # a SHA-256 in hexadecimal


def feature_store(workspace: Workspace, key: str, row_bytes: int = -1, dtype: np.dtype | None = None) -> PartStore:
    """The store of one key.

    Args:
        row_bytes: size of a row; -1 where rows are only read.
        dtype: of the numbers in a row, which is kept with them; None where rows are only read.
    """
    rows = pa.field("features", pa.binary(row_bytes), metadata={DTYPE: dtype.name} if dtype else None)
    schema = pa.schema([("sha256", pa.string()), ("view", pa.int16()), rows])
    return PartStore(workspace, f"features/{key}", schema, KEY)


def append_rows(
    workspace: Workspace, key: str, sha256s: Sequence[str], views: Sequence[int], features: np.ndarray
) -> None:
    """Writes rows as one part: `features` is [N, D], kept in its own dtype (float16 for a trunk's activations)."""
    rows = np.ascontiguousarray(features)
    store = feature_store(workspace, key, rows.itemsize * rows.shape[1], rows.dtype)
    rows_type = store.schema.field("features").type
    column = pa.FixedSizeBinaryArray.from_buffers(rows_type, len(rows), [None, pa.py_buffer(rows)])
    store.append(pa.table([pa.array(sha256s, pa.string()), pa.array(views, pa.int16()), column], schema=store.schema))


def stored_views(workspace: Workspace, key: str, sha256s: Sequence[str], views: int) -> np.ndarray:
    """Which views of which images have a row, bool [N, views]."""
    found = np.zeros((views, len(sha256s)), bool)
    wanted = _Wanted(sha256s, range(views))
    for part in feature_store(workspace, key).read(KEY):
        found.reshape(-1)[wanted.places(part)[1]] = True
    return found.T


def row_blocks_of(
    workspace: Workspace, key: str, sha256s: Sequence[str], dtype: type = np.float32
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(places, rows) of some images under view 0, a few MB at a time, in the order in which they are stored.

    `places`, int [M], are those in `sha256s`, whose entries differ; `rows` are [M, D] of `dtype`. An image comes once,
    and one that has no row never.
    """
    wanted = _Wanted(sha256s, [0])
    left = np.ones(len(sha256s), bool)
    for part in feature_store(workspace, key).read(having=wanted.has_some):
        rows, places = wanted.places(part)
        _, first = np.unique(places, return_index=True)
        first = first[left[places[first]]]
        if len(first):
            left[places[first]] = False
            yield places[first], _values(part, dtype, rows[first])


def load_rows(
    workspace: Workspace,
    key: str,
    sha256s: Sequence[str],
    views: Sequence[int],
    dtype: type = np.float16,
    columns: int | None = None,
) -> Rows:
    """The rows of some images under some views, on disk: view by view, each in the order of `sha256s`.

    One pass through the store, a few MB at a time. The scratch file lies in a local workspace, else in the
    system's folder for temporary files.

    Args:
        dtype: of the result, whichever the rows are stored as.
        columns: the first ones of each row; None takes all.

    Raises:
        WorkspaceError: a row is missing (a retrain makes it again), or the disk is too full for the scratch file.
    """
    folder = Path(workspace.path("")) if workspace.is_local else None
    count = len(sha256s) * len(views)
    return _collect(workspace, key, sha256s, views, dtype, lambda width: Rows(count, width, dtype, folder), columns)


def load_features(
    workspace: Workspace, key: str, sha256s: Sequence[str], view: int, dtype: type = np.float16
) -> np.ndarray:
    """The rows of some images under one view, in the order of `sha256s`, in memory: [N, D] of `dtype`.

    Raises:
        WorkspaceError: an image has no row (a retrain makes it again).
    """
    return _collect(workspace, key, sha256s, [view], dtype, lambda width: np.empty((len(sha256s), width), dtype))


def _collect(
    workspace: Workspace,
    key: str,
    sha256s: Sequence[str],
    views: Sequence[int],
    dtype: type,
    make: Callable[[int], T],
    columns: int | None = None,
) -> T:
    """Fills an array (or scratch file) that `make` creates for the width of a row."""
    wanted = _Wanted(sha256s, views)
    filled = np.zeros(len(sha256s) * len(views), bool)
    result: T | None = None
    for part in feature_store(workspace, key).read(having=wanted.has_some):
        rows, places = wanted.places(part)
        values = _values(part, dtype)[:, :columns]
        result = make(values.shape[1]) if result is None else result
        order = np.argsort(places)  # neighbours are written together
        result[places[order]] = values[rows[order]]
        filled[places] = True
    if result is None or not filled.all():
        missing = int((~filled.reshape(len(views), -1)).any(axis=0).sum())
        raise WorkspaceError(
            f"{missing} of {len(sha256s)} images have no row in features/{key} "
            f"(view {', '.join(map(str, views))}); run the retrain again and they are made"
        )
    return result


class _Wanted:
    """Maps rows of the store to their places in the result: view by view, each in the order of the images."""

    def __init__(self, sha256s: Sequence[str], views: Sequence[int]) -> None:
        digests = np.array(sha256s, DIGEST)
        self._order = np.argsort(digests, kind="stable")
        self._digests = digests[self._order]
        self._views = np.array(views)

    def has_some(self, keys: pa.Table) -> bool:
        return len(self.places(keys)[0]) > 0

    def places(self, part: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """(row of the part, place) of each requested row, int [M] each; an image that is requested twice has two
        places."""
        digests = np.array(part["sha256"].to_pylist(), DIGEST)
        images = np.searchsorted(self._digests, digests)
        counts = np.searchsorted(self._digests, digests, side="right") - images
        rows = np.repeat(np.arange(len(digests)), counts)
        firsts = np.cumsum(counts) - counts
        images = self._order[np.repeat(images - firsts, counts) + np.arange(len(rows))]
        of_row, place = np.nonzero(part["view"].to_numpy()[rows, None] == self._views)
        return rows[of_row], place * len(self._digests) + images[of_row]


def _values(part: pa.Table, dtype: type, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
    """The chosen rows of a part as [N, D] of `dtype`; all of them without a copy where they are stored so.

    Rows that were written before their dtype was kept are taken to be of `dtype`.
    """
    column = part["features"]
    metadata = part.schema.field("features").metadata or {}
    stored = np.dtype(metadata[DTYPE].decode() if DTYPE in metadata else dtype)
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    width = column.type.byte_width // stored.itemsize
    values = np.frombuffer(array.buffers()[1] or b"", stored)
    stored_rows = values[array.offset * width : (array.offset + len(array)) * width].reshape(-1, width)
    return stored_rows[chosen].astype(dtype, copy=False)
