"""Parquet tables in the workspace."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.workspace import Workspace


def read_table(workspace: Workspace, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole table, or some of its columns. Raises WorkspaceError where it is absent."""
    content = pa.BufferReader(workspace.read_bytes(path))
    return pq.read_table(content, columns=None if columns is None else list(columns))


def write_table(workspace: Workspace, path: str, table: pa.Table) -> None:
    """Writes a table, atomically."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    workspace.write_bytes(path, buffer.getvalue())
