"""Rows of numbers on disk that read like a two-dimensional array: a batch of them in memory, never all.

They are read with `pread` and not mapped (`numpy.memmap`): mapped pages count as resident memory of the process.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tasks.errors import WorkspaceError

BLOCK_BYTES = 4 << 20  # one sequential read


class Rows:
    """[N, D] of one dtype in a scratch file, made empty and then filled in any order.

    It has an array's `shape`, `dtype`, `nbytes`, `len()` and `rows[indices]`, so code that needs no more takes either.
    The file has no name: it disappears when it is closed, or when the process ends or is killed. Reading is
    thread-safe.
    """

    def __init__(self, count: int, width: int, dtype: type | np.dtype, folder: Path | str | None = None) -> None:
        """Reserves the file.

        Args:
            folder: of the file; by default the system's folder for temporary files.

        Raises:
            WorkspaceError: the disk has no room for it.
        """
        self.shape: tuple[int, int] = (count, width)
        self.dtype = np.dtype(dtype)
        self._file = tempfile.TemporaryFile(dir=folder, prefix=".rows-")  # noqa: SIM115 - closed by `close`
        try:
            _reserve(self._file.fileno(), self.nbytes)
        except OSError as exc:
            self._file.close()
            raise WorkspaceError(
                f"{count} rows take {self.nbytes / 1e9:.2f} GB of scratch space in {folder or tempfile.gettempdir()}: "
                f"{exc.strerror}; free some there and run again"
            ) from exc

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def width(self) -> int:
        return self.shape[1]

    @property
    def row_bytes(self) -> int:
        return self.width * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return len(self) * self.row_bytes

    def __getitem__(self, indices: np.ndarray | slice) -> np.ndarray:
        """The rows at `indices` (int [n], any order, or a slice) as a new array [n, D].

        Neighbours are read together, so sorted indices and slices cost least.

        Raises:
            IndexError: an index is below 0 or not below N.
        """
        wanted = np.arange(*indices.indices(len(self))) if isinstance(indices, slice) else np.asarray(indices)
        found = np.empty((len(wanted), self.width), self.dtype)
        for start, stop, place in self._runs(wanted):
            self._transfer(os.preadv, found[start:stop], place)
        return found

    def __setitem__(self, indices: np.ndarray | slice, values: np.ndarray) -> None:
        """Writes `values` [n, D] to the rows at `indices`."""
        wanted = np.arange(*indices.indices(len(self))) if isinstance(indices, slice) else np.asarray(indices)
        source = np.ascontiguousarray(values, self.dtype)
        if source.shape != (len(wanted), self.width):
            raise ValueError(f"{len(wanted)} rows of {self.width} values can't be set from an array {source.shape}")
        for start, stop, place in self._runs(wanted):
            self._transfer(os.pwritev, source[start:stop], place)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Rows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _runs(self, indices: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """(start, stop, first row) of each run of `indices` that is contiguous in the file."""
        if len(indices) == 0:
            return
        if indices.min() < 0 or indices.max() >= len(self):
            raise IndexError(f"rows {indices.min()} to {indices.max()} are out of range: there are {len(self)}")
        starts = np.flatnonzero(np.diff(indices, prepend=indices[0] - 2) != 1)
        stops = np.append(starts[1:], len(indices))
        yield from zip(starts.tolist(), stops.tolist(), indices[starts].tolist(), strict=True)

    def _transfer(self, operation: Any, rows: np.ndarray, first: int) -> None:
        """Reads or writes one contiguous run completely; a single system call may do less."""
        if self.row_bytes == 0:
            return
        content, offset = memoryview(rows.reshape(-1).view(np.uint8).data), first * self.row_bytes
        while len(content):
            done = operation(self._file.fileno(), [content], offset)
            if done == 0:
                raise WorkspaceError(f"the scratch file of {len(self)} rows ends early; run again")
            content, offset = content[done:], offset + done


class Chosen:
    """Some rows of an array or of `Rows`, read when they are asked for; it has what code that takes either uses."""

    def __init__(self, rows: np.ndarray | Rows, places: np.ndarray) -> None:
        """
        Args:
            places: the numbers of the rows, int [M].
        """
        self._rows, self._places = rows, places
        self.shape: tuple[int, ...] = (len(places), *rows.shape[1:])
        self.dtype = rows.dtype

    def __len__(self) -> int:
        return len(self._places)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __getitem__(self, indices: np.ndarray | slice) -> np.ndarray:
        return self._rows[self._places[indices]]


def row_blocks(rows: np.ndarray | Rows, block_bytes: int = BLOCK_BYTES) -> Iterator[np.ndarray]:
    """All rows in order, as arrays of about `block_bytes`."""
    count = rows_within(rows, block_bytes)
    yield from (rows[start : start + count] for start in range(0, len(rows), count))


def rows_within(rows: np.ndarray | Rows, size_bytes: int) -> int:
    """How many rows fit into `size_bytes`, at least one."""
    return max(1, size_bytes * len(rows) // max(1, rows.nbytes))


def _reserve(descriptor: int, size_bytes: int) -> None:
    """Allocates the space at once, so that a full disk is an error before the work and not in the middle of it."""
    disk = os.fstatvfs(descriptor)
    if size_bytes > disk.f_bavail * disk.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if size_bytes and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size_bytes)
    os.ftruncate(descriptor, size_bytes)
