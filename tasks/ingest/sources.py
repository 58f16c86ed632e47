"""What a source holds: one entry for each labelled file, before any file is read.

A source is a folder with a sub-folder for each class; or `train/`, `validation/` (or `val/`) and `test/` above such
folders; or a manifest, a `.csv`, `.jsonl` or `.parquet` of `path,label[,split]`; or Label Studio's JSON export; each on
a local disk or behind an fsspec URL; or `tfds:NAME[/CONFIG][:VERSION]`, a data set of tensorflow-datasets.

Nothing in a source is ever changed. Whether a file is an image is told by its content later on, not by its name.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from tasks.artifacts import Run
from tasks.errors import SourceError

SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
MANIFEST_SUFFIXES = (".csv", ".jsonl", ".parquet")
LABEL_STUDIO_SUFFIX = ".json"
# What operating systems and unpackers leave behind; it says nothing of the data, so it is not worth a line.
LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".mpo", ".avif"}
)
ALLOWED = (
    "a source is a folder with a sub-folder for each class; such folders under train/, validation/ and test/; a "
    ".csv, .jsonl or .parquet file of path,label[,split]; Label Studio's .json export; or tfds:NAME"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One labelled file of the source.

    `path` is what the user knows it by, relative to the source; `uri` is what `tasks.images.read_bytes` reads.
    `size_bytes`, `etag` and `mark` (what changes whenever it is written) are given where listing a remote source told.
    """

    path: str
    uri: str
    label: str
    split: str | None = None
    size_bytes: int | None = None
    etag: str | None = None
    mark: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file, or a line of a manifest, that can't be an entry, and why."""

    path: str
    reason: str
    label: str | None = None


@dataclass(frozen=True)
class Listing:
    """All that a source holds. `skipped` counts litter, and files beside the class folders that are no images."""

    entries: tuple[Entry, ...]
    rejected: tuple[Rejected, ...] = ()
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class _File:
    """A file found by walking: its parts below the source's root. `escapes`: a link that leads out of the root."""

    parts: tuple[str, ...]
    uri: str
    escapes: bool = False
    size_bytes: int | None = None
    etag: str | None = None
    mark: str | None = None


def list_source(run: Run) -> Listing:
    """Lists the run's source, sorted by path.

    Raises:
        SourceError: the source is missing, empty, of an unknown form, or has no class folder with a file in it.
    """
    source = run.source
    if source.startswith("tfds:"):
        from tasks.ingest.tfds_source import list_tfds

        return list_tfds(source, run.workspace)
    fs, root = _open(source)
    if fs.isdir(root):
        return _list_folders(source, *_walk(source, fs, root))
    if not fs.exists(root):
        raise SourceError(f"the source {source!r} does not exist; {ALLOWED}")
    if root.lower().endswith(LABEL_STUDIO_SUFFIX):
        from tasks.ingest.label_studio import list_label_studio

        return list_label_studio(source, fs, root, run.config.ingest.images_root)
    if not root.lower().endswith(MANIFEST_SUFFIXES):
        raise SourceError(f"the source {source!r} is a file of an unknown kind; {ALLOWED}")
    from tasks.ingest.manifest import list_manifest

    return list_manifest(source, fs, root)


def check_source(run: Run) -> None:
    """Raises SourceError where the source is missing or of an unknown kind; a folder that is to grow may be empty.

    (On an object store an empty folder is none at all.)
    """
    fs, root = _open(run.source)
    if "://" in run.source and not root.lower().endswith((*MANIFEST_SUFFIXES, LABEL_STUDIO_SUFFIX)):
        return
    if not fs.exists(root):
        raise SourceError(f"the source {run.source!r} does not exist; {ALLOWED}")
    if not fs.isdir(root):
        list_source(run)


def clean_label(label: Any) -> str:
    """A label as text: trimmed, and in Unicode's composed form, for file systems differ in how they spell 'é'."""
    return unicodedata.normalize("NFC", str(label)).strip()


def uri_of(fs: Any, path: str, source: str) -> str:
    """What reads `path` of `fs`: a local path, or a URL (with the tail of a chained one: `zip://…::s3://…`)."""
    if isinstance(fs, LocalFileSystem):
        return path
    _, chained, tail = source.partition("::")
    return fs.unstrip_protocol(path) + chained + tail


def _open(source: str) -> tuple[Any, str]:
    try:
        fs, root = fsspec.core.url_to_fs(str(Path(source).expanduser()) if "://" not in source else source)
        fs.invalidate_cache()  # the folder grows: a listing of an hour ago is not what lies there now
    except (ValueError, ImportError, OSError) as exc:
        raise SourceError(f"the source {source!r} can't be opened: {exc}; {ALLOWED}") from exc
    return fs, root.rstrip("/") or root


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
            told = {"size_bytes": info.get("size"), "etag": _etag(info), "mark": remote_mark(info)}
            yield _File(parts, uri_of(fs, path, source), **told)


def _etag(info: Mapping[str, Any]) -> str | None:
    """The entity tag of an object, which changes with its content; object stores spell its name in two ways."""
    return info.get("ETag") or info.get("etag")


def remote_mark(info: Mapping[str, Any]) -> str:
    """The size, and the entity tag or what storage calls the time; of a file system that tells neither, the size."""
    names = ("LastModified", "last_modified", "updated", "mtime", "created")
    known = (_etag(info), *(info.get(name) for name in names))
    return f"{info.get('size')}-{next((str(each) for each in known if each), '')}"


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER


def _list_folders(source: str, files: Sequence[_File], litter: int) -> Listing:
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
