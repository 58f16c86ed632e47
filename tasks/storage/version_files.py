"""The files of a published version, each read once, so that what is verified is what is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.errors import DamagedFileError
from tasks.workspace import Workspace

MANIFEST = "manifest.json"
SIGNATURE = "model.sig"
MAX_FILE_BYTES = 2**31  # protobuf reads no larger message, so no larger ONNX file either


@dataclass(frozen=True, kw_only=True)
class VersionFiles:
    """A version's folder at one moment."""

    folder: str  # where it was read, for messages
    contents: Mapping[str, bytes]  # by path: the manifest, the signature, and what the manifest names
    others: tuple[str, ...]  # paths of files that the manifest does not name; they are not read

    def manifest(self) -> Any:
        """The JSON of the manifest. Raises ValueError where it is none, KeyError where there is no manifest."""
        return json.loads(self.contents[MANIFEST])


def read_version_files(folder: Workspace) -> VersionFiles:
    """Reads the files of one version.

    Raises:
        DamagedFileError: a file is larger than any ONNX file.
    """
    sizes = {file.path: file.size_bytes for file in folder.files("")}
    contents = {path: _read(folder, path, sizes[path]) for path in (MANIFEST, SIGNATURE) if path in sizes}
    for path in sorted(_named(contents.get(MANIFEST, b"")) & sizes.keys() - contents.keys()):
        contents[path] = _read(folder, path, sizes[path])
    return VersionFiles(folder=folder.url, contents=contents, others=tuple(sorted(sizes.keys() - contents.keys())))


def _read(folder: Workspace, path: str, size_bytes: int) -> bytes:
    if size_bytes > MAX_FILE_BYTES:
        raise DamagedFileError(
            f"{folder.display(path)} has {size_bytes} bytes; a model's file has {MAX_FILE_BYTES} at most"
        )
    return folder.read_bytes(path)


def _named(manifest: bytes) -> set[str]:
    """The files that a manifest promises; none where it is damaged, which `verify` reports."""
    try:
        return set(json.loads(manifest)["files"])
    except (ValueError, KeyError, TypeError):
        return set()
