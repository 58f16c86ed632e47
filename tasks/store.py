"""A content-addressed table store: Parquet parts in one folder, each named by the SHA-256 of its own bytes.

Rows are keyed (here by image digest, and view). So a part can't be half written, two writers can't collide (equal
parts have equal names), and damage shows when a part's bytes don't give its name: such a part is dropped, its rows
count as missing, and the stage that asked makes them again.
"""

# pyarrow.compute makes its functions at import, where no type checker sees them.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.workspace import Workspace

log = logging.getLogger(__name__)


class PartStore:
    """The rows under one folder of the workspace, all of one Arrow `schema`.

    `key` names the columns that identify a row; where two parts hold one key, either row serves, for rows are
    functions of their key.
    """

    def __init__(self, workspace: Workspace, folder: str, schema: pa.Schema, key: Sequence[str]) -> None:
        self.workspace = workspace
        self.folder = folder
        self.schema = schema
        self.key = list(key)

    def append(self, table: pa.Table) -> str:
        """Writes `table` as one part, atomically, and returns its path. An empty table writes nothing ("")."""
        if table.num_rows == 0:
            return ""
        buffer = io.BytesIO()
        # Activations don't compress; uncompressed fixed-size rows are read at memory speed.
        pq.write_table(
            table.cast(self.schema), buffer, compression="none", use_dictionary=False, write_statistics=False
        )
        content = buffer.getvalue()
        path = f"{self.folder}/{hashlib.sha256(content).hexdigest()}.parquet"
        self.workspace.write_bytes(path, content)
        return path

    def parts(self) -> list[str]:
        return [f"{self.folder}/{name}" for name in self.workspace.names(self.folder) if name.endswith(".parquet")]

    def read(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Each sound part as a table of `columns` (all by default). A damaged part is removed, with a warning."""
        for path in self.parts():
            content = self.workspace.read_bytes(path)
            if f"{hashlib.sha256(content).hexdigest()}.parquet" != path.rsplit("/", 1)[-1]:
                log.warning(
                    "%s is damaged (its content does not give its name): dropped, its rows are made again", path
                )
                self.workspace.remove(path)
                continue
            yield pq.read_table(pa.BufferReader(content), columns=None if columns is None else list(columns))

    def keys(self) -> set[tuple]:
        """Every key that has a row."""
        found: set[tuple] = set()
        for table in self.read(self.key):
            found.update(zip(*(table[name].to_pylist() for name in self.key), strict=True))
        return found

    def select(self, column: str, wanted: pa.Array) -> pa.Table:
        """The rows whose `column` is among `wanted`, each key once, in no particular order."""
        chunks = [table.filter(pc.is_in(table[column], value_set=wanted)) for table in self.read()]
        table = pa.concat_tables(chunks) if chunks else self.schema.empty_table()
        if table.num_rows == 0:
            return table
        return table.take(_first_of_each(table.select(self.key)))


def _first_of_each(keys: pa.Table) -> pa.Array:
    numbered = keys.append_column("row", pa.array(range(keys.num_rows), pa.int64()))
    return numbered.group_by(keys.column_names).aggregate([("row", "min")])["row_min"].sort()
