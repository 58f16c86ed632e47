"""Saves and loads a head."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.workspace import Workspace

if TYPE_CHECKING:
    import keras


def save_head(workspace: Workspace, path: str, model: keras.Model) -> None:
    """Writes a head as a `.keras` file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "head.keras"
        model.save(file)
        workspace.write_bytes(path, file.read_bytes())


def load_head(workspace: Workspace, path: str) -> keras.Model:
    """Reads a head in Keras's safe mode: no code is run from the file."""
    import keras

    return keras.saving.load_model(workspace.local_file(path), compile=False, safe_mode=True)  # type: ignore[return-value]
