"""A content-addressed table store: Parquet parts in one folder, each named by the SHA-256 of its own bytes.

Rows have a key (such as image digest and view). A part is never half written, and two writers can't collide, since
equal parts have equal names. A damaged part is one whose bytes don't have the digest in its name: it is dropped, its
rows count as missing, and the stage that needs them makes them again.

Parts are read one row group at a time, and only the requested columns, so memory does not depend on the number of rows.
A part on a local disk is hashed before a process first reads it. On an object store that would download everything:
there each page that is read is checked by its CRC-32, and a part that can't be read is hashed.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.storage.digests import has_digest
from tasks.workspace import Workspace

log = logging.getLogger(__name__)

ROW_GROUP_BYTES = 8 << 20  # what one read brings into memory


class PartStore:
    """The rows under one folder of the workspace, all of one Arrow `schema`.

    `key` names the columns that identify a row. Where two parts hold one key, either row is right: rows are functions
    of their key.
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
            table.cast(self.schema),
            buffer,
            row_group_size=max(1, ROW_GROUP_BYTES * table.num_rows // max(1, table.nbytes)),
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        )
        content = buffer.getvalue()
        path = f"{self.folder}/{hashlib.sha256(content).hexdigest()}.parquet"
        self.workspace.write_bytes(path, content)
        return path

    def parts(self) -> list[str]:
        return [f"{self.folder}/{name}" for name in self.workspace.names(self.folder) if name.endswith(".parquet")]

    def read(
        self, columns: Sequence[str] | None = None, having: Callable[[pa.Table], bool] | None = None
    ) -> Iterator[pa.Table]:
        """Every row, as tables of some MB with `columns` (all by default).

        Args:
            having: given keys, whether some of them are wanted: parts of which none is are passed over, unread and
                unchecked.

        A damaged part is removed, with a warning. A part that was merged into another one meanwhile (see
        `flows.cli.clean`) is found there: some of its rows may come twice, none is missed.

        Raises:
            OSError: a part can't be read, and not because it is damaged.
        """
        seen: set[str] = set()
        while fresh := [path for path in self.parts() if path not in seen]:
            for path in fresh:
                seen.add(path)
                if having is None or self._has(path, having):
                    yield from self.read_part(path, columns)

    def read_part(self, path: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows of one part, as `read` gives them; none where it was removed or is damaged."""
        try:
            if self.workspace.is_local and not self._is_sound(path):
                self._drop(path)
                return
            yield from self._row_groups(path, columns)
        except FileNotFoundError:
            return
        except (OSError, pa.ArrowException):
            if self._is_sound(path):
                raise
            self._drop(path)

    def keys(self) -> set[tuple]:
        """Every key that has a row."""
        found: set[tuple] = set()
        for table in self.read(self.key):
            found.update(zip(*(table[name].to_pylist() for name in self.key), strict=True))
        return found

    def _has(self, path: str, having: Callable[[pa.Table], bool]) -> bool:
        """Whether a part has wanted keys; true also where that can't be read, so that it is checked."""
        try:
            return any(having(keys) for keys in self._row_groups(path, self.key))
        except (OSError, pa.ArrowException):
            return True

    def _row_groups(self, path: str, columns: Sequence[str] | None) -> Iterator[pa.Table]:
        local = self.workspace.is_local
        with pa.OSFile(self.workspace.path(path)) if local else self._open(path) as file:
            part = pq.ParquetFile(file, page_checksum_verification=not local)
            for group in range(part.num_row_groups):
                yield part.read_row_group(group, columns=None if columns is None else list(columns), use_threads=False)

    def _open(self, path: str) -> Any:
        """A part on an object store; only the ranges that are read are transferred."""
        return self.workspace.fs.open(self.workspace.path(path), "rb", cache_type="none")

    def _is_sound(self, path: str) -> bool:
        return has_digest(self.workspace, path, path.rsplit("/", 1)[-1].removesuffix(".parquet"))

    def _drop(self, path: str) -> None:
        log.warning("%s is damaged (its digest is not its name): dropped, and its rows are made again", path)
        self.workspace.remove(path)
