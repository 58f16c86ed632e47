"""What listing a source gives, before any file is read: entries (labelled files) and rejected files."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from tasks.records import SPLITS

SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
MANIFEST_SUFFIXES = (".csv", ".jsonl", ".parquet")
LABEL_STUDIO_SUFFIX = ".json"
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

    `path` is what the user sees, relative to the source; `uri` is what `tasks.modality.images.read_bytes` reads.
    `size_bytes`, `etag` and `signature` (see `remote_signature`) are set where the listing of a remote source has them.
    """

    path: str
    uri: str
    label: str
    split: str | None = None
    size_bytes: int | None = None
    etag: str | None = None
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file, or a line of a manifest, that can't be used, and why."""

    path: str
    reason: str
    label: str | None = None


@dataclass(frozen=True)
class Listing:
    """The content of a source, sorted by path. `skipped` counts system files, and unlabelled files and tasks."""

    entries: tuple[Entry, ...]
    rejected: tuple[Rejected, ...] = ()
    skipped: int = 0


def make_listing(found: Iterable[Entry | Rejected | None], skipped: int = 0) -> Listing:
    """Separates entries from rejected files; each None counts as skipped."""
    found = list(found)
    entries = sorted((item for item in found if isinstance(item, Entry)), key=lambda entry: entry.path)
    rejected = tuple(item for item in found if isinstance(item, Rejected))
    return Listing(tuple(entries), rejected, skipped + len(found) - len(entries) - len(rejected))


def checked_entry(path: str, label: str, split: Any, uri: str | None, unreadable: str) -> Entry | Rejected:
    """An entry as a manifest or an export describes it; rejected where label, split or location can't be used.

    Args:
        split: as written in the file; may be blank.
        uri: None where the file may not be read, for the reason `unreadable`.
    """
    given = str(split or "").strip()
    if not label:
        return Rejected(path, "it has no label")
    if given and given.lower() not in SPLIT_FOLDERS:
        return Rejected(path, f"its split is {given!r}; allowed are {', '.join(SPLITS)}, or none", label)
    if uri is None:
        return Rejected(path, unreadable, label)
    return Entry(path, uri, label, SPLIT_FOLDERS.get(given.lower()))


def clean_label(label: Any) -> str:
    """A label as trimmed text in Unicode's composed form, because file systems encode 'é' differently."""
    return unicodedata.normalize("NFC", str(label)).strip()


def open_url(url: str) -> tuple[Any, str]:
    """The file system of a local path or an fsspec URL, and the path in it."""
    return fsspec.core.url_to_fs(url if "://" in url else str(Path(url).expanduser()))


def uri_of(fs: Any, path: str, source: str) -> str:
    """The URI of `path` in `fs`: a local path, or a URL (with the tail of a chained one: `zip://…::s3://…`)."""
    if isinstance(fs, LocalFileSystem):
        return path
    _, chained, tail = source.partition("::")
    return fs.unstrip_protocol(path) + chained + tail


def etag_of(info: Mapping[str, Any]) -> str | None:
    """The entity tag of an object, which changes with its content; object stores use two names for it."""
    return info.get("ETag") or info.get("etag")


def remote_signature(info: Mapping[str, Any]) -> str:
    """A remote file's size with its entity tag, or else its time; only the size where the storage has neither."""
    names = ("LastModified", "last_modified", "updated", "mtime", "created")
    known = (etag_of(info), *(info.get(name) for name in names))
    return f"{info.get('size')}-{next((str(each) for each in known if each), '')}"
