"""Files are checked against their digest before they are first read by a process."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tasks.workspace import Workspace

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


def _state(workspace: Workspace, path: str) -> tuple[int, ...]:
    if not workspace.is_local:
        return ()
    status = Path(workspace.path(path)).stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
