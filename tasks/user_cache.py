"""The user's cache on this machine: what lies there can be lost. Imports nothing heavy: the command starts with it."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache(name: str) -> Path:
    """A folder in it, made where it is absent, that no other user can enter. Raises OSError where it can't be."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headstart" / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
