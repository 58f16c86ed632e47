"""Lists class folders, on a local disk or behind an fsspec URL. A file's folder gives its label and split."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from tasks.errors import SourceError
from tasks.ingest.entries import (
    ALLOWED,
    IMAGE_SUFFIXES,
    SPLIT_FOLDERS,
    Entry,
    Listing,
    Rejected,
    clean_label,
    etag_of,
    make_listing,
    remote_signature,
    uri_of,
)

# Left behind by operating systems and archive tools; skipped without a message, like hidden files.
SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


@dataclass(frozen=True, slots=True)
class _File:
    """A file below the source's root. `escapes`: a link that leads out of the root; `remote`: fields of `Entry`."""

    parts: tuple[str, ...]
    uri: str
    escapes: bool = False
    remote: Mapping[str, Any] = field(default_factory=dict)


def list_folders(source: str, fs: Any, root: str) -> Listing:
    """Lists the files below class folders.

    Raises:
        SourceError: the folder can't be listed, is empty, or has no class folder with a file in it.
    """
    try:
        found = list(_walk_local(root) if isinstance(fs, LocalFileSystem) else _walk_remote(source, fs, root))
    except OSError as exc:
        raise SourceError(f"the source {source!r} can't be listed: {exc.strerror or exc}") from exc
    files = sorted((file for file in found if not any(map(_is_system_file, file.parts))), key=lambda file: file.parts)
    if not files:
        raise SourceError(f"the source {source!r} is empty; {ALLOWED}")
    splits = _split_folders(source, {file.parts[0] for file in files if len(file.parts) > 1})
    listing = make_listing((_entry(file, splits) for file in files), skipped=len(found) - len(files))
    if not listing.entries:
        raise SourceError(
            f"the source {source!r} has no class folder with a file in it; found {_some(files)}; {ALLOWED}"
        )
    return listing


def _walk_local(root: str) -> Iterator[_File]:
    """Follows links within the root, and enters each folder once, so that no loop is endless."""
    real_root = os.path.realpath(root)
    entered = {real_root}

    def walk(folder: str, parts: tuple[str, ...]) -> Iterator[_File]:
        with os.scandir(folder) as children:
            for child in children:
                here = (*parts, child.name)
                if child.is_symlink():
                    target = os.path.realpath(child.path)
                    if not target.startswith(real_root + os.sep):
                        yield _File(here, child.path, escapes=True)
                        continue
                    if child.is_dir() and target in entered:
                        continue
                if child.is_dir():
                    entered.add(os.path.realpath(child.path))
                    yield from walk(child.path, here)
                elif child.is_file():
                    yield _File(here, child.path)

    yield from walk(root, ())


def _walk_remote(source: str, fs: Any, root: str) -> Iterator[_File]:
    for path, info in fs.find(root, detail=True).items():
        parts = PurePosixPath(path.removeprefix(root).lstrip("/")).parts
        if parts and not path.endswith("/"):  # such a key is a folder's
            remote = {"size_bytes": info.get("size"), "etag": etag_of(info), "signature": remote_signature(info)}
            yield _File(parts, uri_of(fs, path, source), remote=remote)


def _is_system_file(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def _split_folders(source: str, folders: set[str]) -> Mapping[str, str]:
    """The split of each top folder; empty where the top folders are classes.

    `train` may be a class (of vehicles, for example), so it is a split only where all top folders are splits.
    """
    named = {folder for folder in folders if folder.lower() in SPLIT_FOLDERS}
    if "train" not in {folder.lower() for folder in named}:
        return {}
    if named == folders:
        return {folder: SPLIT_FOLDERS[folder.lower()] for folder in folders}
    if len(named) > 1:
        raise SourceError(
            f"the source {source!r} holds the splits {_names(named)} beside {_names(folders - named)}: its top "
            f"folders must be either all splits or all classes, so move one kind away; {ALLOWED}"
        )
    return {}


def _entry(file: _File, splits: Mapping[str, str]) -> Entry | Rejected | None:
    """A file as an entry, or why it can't be one; None for what is no data (a README beside the class folders)."""
    path = "/".join(file.parts)
    depth = 1 if splits else 0  # of the class folder
    if len(file.parts) <= depth + 1:
        if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
            return None
        return Rejected(_printable(path), "it is not in a class folder, so it has no label")
    label = clean_label(file.parts[depth])
    if file.escapes:
        return Rejected(_printable(path), "it is a link that leads out of the source", _printable(label))
    if _printable(path) != path:
        return Rejected(_printable(path), "its name is not valid UTF-8: rename it", _printable(label))
    return Entry(path, file.uri, label, splits.get(file.parts[0]), **file.remote)


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"{name}/" for name in sorted(names))


def _some(files: Sequence[_File]) -> str:
    shown = [_printable("/".join(file.parts)) for file in files[:3]]
    return ", ".join(shown) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
