"""Files are checked against their digest before they are first read by a process; and numbers drawn from digests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

BLOCK_BYTES = 1 << 20

# Of each local file that had its digest: the digest, its size, the time of its last change and its inode at that time;
# of a remote one, whose change could not be seen, the digest alone.
_verified: dict[str, tuple] = {}


def has_digest(workspace: Workspace, path: str, sha256: str) -> bool:
    """Whether a file's content has this SHA-256 (hexadecimal); hashed once for each process and change of the file.

    Raises:
        FileNotFoundError: the file is gone.
        OSError: it can't be read.
    """
    name = workspace.display(path)
    found = (sha256, *_state(workspace, path))
    if _verified.get(name) != found:
        if file_digest(workspace, path) != sha256:
            return False
        _verified[name] = found
    return True


def file_digest(workspace: Workspace, path: str) -> str:
    """The SHA-256 of a file, in hexadecimal, a block at a time. Raises OSError."""
    digest = hashlib.sha256()
    with workspace.fs.open(workspace.path(path), "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def uniform(digests: pd.Series, salt: int) -> np.ndarray:
    """A uniform uint64 for each digest: SplitMix64 (Steele et al. 2014) of its first 64 bits and a salt.

    Args:
        salt: 64 bits; makes one use independent of the others.
    """
    if digests.empty:
        return np.empty(0, np.uint64)
    leading = bytes.fromhex("".join(digests.str.slice(0, 16)))
    z = np.frombuffer(leading, ">u8").astype(np.uint64) + np.uint64(salt)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _state(workspace: Workspace, path: str) -> tuple[int, ...]:
    if not workspace.is_local:
        return ()
    status = Path(workspace.path(path)).stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
