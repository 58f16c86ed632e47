"""What listing a source gives: entries (labelled files), and what can't be one, before any file is read."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fsspec.implementations.local import LocalFileSystem

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

    `path` is what the user knows it by, relative to the source; `uri` is what `tasks.modality.images.read_bytes` reads.
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


def clean_label(label: Any) -> str:
    """A label as text: trimmed, and in Unicode's composed form, for file systems differ in how they spell 'é'."""
    return unicodedata.normalize("NFC", str(label)).strip()


def uri_of(fs: Any, path: str, source: str) -> str:
    """What reads `path` of `fs`: a local path, or a URL (with the tail of a chained one: `zip://…::s3://…`)."""
    if isinstance(fs, LocalFileSystem):
        return path
    _, chained, tail = source.partition("::")
    return fs.unstrip_protocol(path) + chained + tail


def etag_of(info: Mapping[str, Any]) -> str | None:
    """The entity tag of an object, which changes with its content; object stores spell its name in two ways."""
    return info.get("ETag") or info.get("etag")


def remote_mark(info: Mapping[str, Any]) -> str:
    """The size, and the entity tag or what storage calls the time; of a file system that tells neither, the size."""
    names = ("LastModified", "last_modified", "updated", "mtime", "created")
    known = (etag_of(info), *(info.get(name) for name in names))
    return f"{info.get('size')}-{next((str(each) for each in known if each), '')}"
