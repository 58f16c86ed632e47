"""Class folders, on a local disk or behind an fsspec URL: walked, and each file judged by where it lies."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    remote_mark,
    uri_of,
)

# What operating systems and unpackers leave behind; it says nothing of the data, so it is not worth a line.
LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


@dataclass(frozen=True, slots=True)
class _File:
    """A file found by walking: its parts below the source's root. `escapes`: a link that leads out of the root."""

    parts: tuple[str, ...]
    uri: str
    escapes: bool = False
    size_bytes: int | None = None
    etag: str | None = None
    mark: str | None = None


def list_folders(source: str, fs: Any, root: str) -> Listing:
    """The files below class folders, sorted by path.

    Raises:
        SourceError: the folder can't be listed, is empty, or has no class folder with a file in it.
    """
    return _listing(source, *_walk(source, fs, root))


def _walk(source: str, fs: Any, root: str) -> tuple[list[_File], int]:
    """Every file under `root`, sorted, and the number of pieces of litter passed over."""
    try:
        files = list(_walk_local(root) if isinstance(fs, LocalFileSystem) else _walk_remote(source, fs, root))
    except OSError as exc:
        raise SourceError(f"the source {source!r} can't be listed: {exc.strerror or exc}") from exc
    kept = [file for file in files if not any(_is_litter(part) for part in file.parts)]
    return sorted(kept, key=lambda file: file.parts), len(files) - len(kept)


def _walk_local(root: str) -> Iterator[_File]:
    """Links to files and folders within the root are followed; a folder is entered once, so no loop is endless."""
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
        if parts and not path.endswith("/"):  # a key that ends so stands for a folder
            told = {"size_bytes": info.get("size"), "etag": etag_of(info), "mark": remote_mark(info)}
            yield _File(parts, uri_of(fs, path, source), **told)


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER


def _listing(source: str, files: Sequence[_File], litter: int) -> Listing:
    if not files:
        raise SourceError(f"the source {source!r} is empty; {ALLOWED}")
    splits = _split_folders(source, {file.parts[0] for file in files if len(file.parts) > 1})
    entries: list[Entry] = []
    rejected: list[Rejected] = []
    skipped = litter
    for file in files:
        judged = _judge(file, splits)
        if isinstance(judged, Entry):
            entries.append(judged)
        elif judged is None:
            skipped += 1
        else:
            rejected.append(judged)
    if not entries:
        raise SourceError(
            f"the source {source!r} has no class folder with a file in it; found {_some(files)}; {ALLOWED}"
        )
    return Listing(tuple(entries), tuple(rejected), skipped)


def _split_folders(source: str, folders: set[str]) -> Mapping[str, str]:
    """The split that each top folder stands for; empty where the top folders are classes.

    `train` may be the name of a class (of vehicles, say), so it means a split only among nothing but splits.
    """
    named = {folder for folder in folders if folder.lower() in SPLIT_FOLDERS}
    if "train" not in {folder.lower() for folder in named}:
        return {}
    if named == folders:
        return {folder: SPLIT_FOLDERS[folder.lower()] for folder in folders}
    if len(named) > 1:
        raise SourceError(
            f"the source {source!r} holds the splits {_names(named)} beside {_names(folders - named)}: move either "
            f"away, for it can't be told which are classes; {ALLOWED}"
        )
    return {}


def _judge(file: _File, splits: Mapping[str, str]) -> Entry | Rejected | None:
    """What to make of a file; None where it is no business of ours (a README beside the class folders)."""
    path = "/".join(file.parts)
    depth = 1 if splits else 0  # the place of the class folder among the parts
    if len(file.parts) <= depth + 1:
        if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
            return None
        return Rejected(_printable(path), "it lies in no class folder, so it has no label")
    label = clean_label(file.parts[depth])
    if file.escapes:
        return Rejected(_printable(path), "a link that leads out of the source is not followed", _printable(label))
    if not _is_utf8(path):
        return Rejected(_printable(path), "its name is not valid UTF-8: rename it", _printable(label))
    told = (file.size_bytes, file.etag, file.mark)
    return Entry(path, file.uri, label, splits.get(file.parts[0]), *told)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"{name}/" for name in sorted(names))


def _some(files: Sequence[_File]) -> str:
    shown = [_printable("/".join(file.parts)) for file in files[:3]]
    return ", ".join(shown) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
