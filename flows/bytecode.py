"""Where Python is told to write no bytecode, every start would compile all that it imports: 30 s of it here, not 5."""

from __future__ import annotations

import os
import sys
from importlib.util import cache_from_source, find_spec
from pathlib import Path

from tasks.workspace import user_cache


def keep_bytecode() -> None:
    """Keeps bytecode in the user's cache folder, for this process and those it starts, where it would be kept nowhere.

    PYTHONDONTWRITEBYTECODE is there to keep source trees clean, and so they stay. Nothing is done where what was
    installed is compiled already, or where the folder can't be made.
    """
    if not sys.dont_write_bytecode or sys.pycache_prefix or _is_compiled("typer"):
        return
    try:
        folder = user_cache("bytecode")
    except OSError:
        return
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(folder)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder)


def _is_compiled(package: str) -> bool:
    spec = find_spec(package)
    return bool(spec and spec.origin and Path(cache_from_source(spec.origin)).exists())
