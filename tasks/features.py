"""Feature rows in the workspace: one Parquet store for each recipe, keyed by (image sha256, view)."""

# pyarrow.compute makes its functions at import, where no type checker sees them.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.errors import WorkspaceError
from tasks.store import PartStore
from tasks.workspace import Workspace

KEY = ("sha256", "view")


def feature_store(workspace: Workspace, recipe: str, row_bytes: int = -1) -> PartStore:
    """The store of one recipe.

    Args:
        row_bytes: size of a row; -1 where rows are only read.
    """
    rows = pa.binary(row_bytes)
    schema = pa.schema([("sha256", pa.string()), ("view", pa.int16()), ("features", rows)])
    return PartStore(workspace, f"features/{recipe}", schema, KEY)


def append_rows(
    workspace: Workspace, recipe: str, sha256s: Sequence[str], views: Sequence[int], features: np.ndarray
) -> None:
    """Writes rows as one part: `features` is [N, D], kept in its own dtype (float16 for a trunk's activations)."""
    rows = np.ascontiguousarray(features)
    store = feature_store(workspace, recipe, rows.itemsize * rows.shape[1])
    rows_type = store.schema.field("features").type
    column = pa.FixedSizeBinaryArray.from_buffers(rows_type, len(rows), [None, pa.py_buffer(rows)])
    store.append(pa.table([pa.array(sha256s, pa.string()), pa.array(views, pa.int16()), column], schema=store.schema))


def load_features(
    workspace: Workspace, recipe: str, sha256s: Sequence[str], view: int, dtype: type = np.float16
) -> np.ndarray:
    """The rows of some images under one view, in the order of `sha256s`: [N, D] of `dtype`.

    Raises:
        WorkspaceError: an image has no row (extraction makes it again).
    """
    positions: dict[str, list[int]] = {}
    for position, sha256 in enumerate(sha256s):
        positions.setdefault(sha256, []).append(position)
    wanted = pa.array(list(positions), pa.string())
    result: np.ndarray | None = None
    filled = np.zeros(len(sha256s), bool)
    for part in feature_store(workspace, recipe).read():
        rows = part.filter(pc.and_(pc.equal(part["view"], view), pc.is_in(part["sha256"], value_set=wanted)))
        values = _values(rows["features"], dtype)
        if result is None:
            result = np.zeros((len(sha256s), values.shape[1]), dtype)
        for row, sha256 in enumerate(rows["sha256"].to_pylist()):
            result[positions[sha256]] = values[row]
            filled[positions[sha256]] = True
    if result is None or not filled.all():
        missing = int((~filled).sum())
        raise WorkspaceError(
            f"{missing} of {len(sha256s)} images have no row in features/{recipe} (view {view}); run the retrain again "
            "and they are made"
        )
    return result


def _values(column: pa.ChunkedArray, dtype: type) -> np.ndarray:
    """Fixed-size binary rows as [N, D] of `dtype`, without a copy of its own."""
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    width = column.type.byte_width // np.dtype(dtype).itemsize
    values = np.frombuffer(array.buffers()[1] or b"", dtype)
    return values[array.offset * width : (array.offset + len(array)) * width].reshape(-1, width)
