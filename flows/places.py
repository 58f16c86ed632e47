"""Where libraries keep their files, set before they are imported: in the user's home, or where that can't be."""

from __future__ import annotations

import os
import sys
from importlib.util import cache_from_source, find_spec
from pathlib import Path

from tasks.workspace import user_cache, user_home

HOMES = {"PREFECT_HOME": ".prefect", "KERAS_HOME": ".keras", "TFDS_DATA_DIR": "tensorflow_datasets"}


def find_homes() -> None:
    """Gives Prefect, Keras and tensorflow-datasets a folder of our cache where their own in the user's home can't be
    written, as in a container without one. Changes nothing elsewhere."""
    for variable, name in HOMES.items():
        if variable not in os.environ and not _can_be_written(name):
            try:
                os.environ[variable] = str(user_cache(name.strip(".")))
            except OSError:
                return  # the library that needs it says what it can't write


def _can_be_written(name: str) -> bool:
    """Whether a folder of the home can be written, or made."""
    try:
        home = user_home()
    except OSError:
        return False
    return os.access(home / name if (home / name).exists() else home, os.W_OK | os.X_OK)


def keep_bytecode() -> None:
    """Keeps bytecode in the user's cache folder, for this process and those it starts, where it would be kept nowhere.

    PYTHONDONTWRITEBYTECODE is there to keep source trees clean, and so they stay; but every start would compile all
    that it imports, which takes 30 s and not 5. Nothing is done where what was installed is compiled already, or where
    the folder can't be made.
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
