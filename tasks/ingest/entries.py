"""What listing a source gives, before any file is read: entries (labelled files), rejected files, and what is left out.

A rejected file is quarantined: somebody meant it to be used. What is left out is only counted, by its reason.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from tasks.errors import SourceError
from tasks.modality.items import read_bytes
from tasks.records import SPLITS

# The usual names of splits: `valid`, `Training`, `train2017`, `test_set`, `hold-out`.
_SPLIT_NAME = re.compile(
    r"(?:(?P<train>train|training)|(?P<validation>val|valid|validation|dev|development)"
    r"|(?P<test>test|testing|hold[-_ ]?out))"
    r"(?:[-_ ]?(?:set|split|data|images))?(?:[-_ ]?\d{4})?",
    re.IGNORECASE,
)
MANIFEST_SUFFIXES = (".csv", ".jsonl", ".parquet")
LABEL_STUDIO_SUFFIX = ".json"
MAX_LIST_BYTES = 1 << 30  # of a manifest or an export: some ten million lines
IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".apng",
        ".webp",
        ".gif",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
    }
    | {".pbm", ".pnm", ".pfm", ".mpo", ".avif"}
    # Images that can't be read: they are quarantined by name, not ignored as side files.
    | {".heic", ".heif", ".jxl", ".jp2", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"}
)
TEXT_SUFFIXES = frozenset({".txt"})
SUFFIXES = {"image": IMAGE_SUFFIXES, "text": TEXT_SUFFIXES}
NO_LABEL = "it has no label"
NOT_TEXT = "its name is not valid UTF-8: rename it"
ALLOWED = (
    "a source is a folder with a sub-folder for each class; such folders under train/, validation/ and test/; a "
    ".csv, .jsonl or .parquet file of path,label[,split], or, for texts, of text,label[,split]; Label Studio's .json "
    "export; or tfds:NAME"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One labelled file of the source, or a text in one of its lines.

    `path` is what the user sees, relative to the source; `uri` is what `tasks.modality.items.read_bytes` reads.
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


@dataclass(frozen=True, slots=True)
class Ignored:
    """What is listed and of no interest: a side file, an image without a label."""

    path: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """The content of a source, sorted by path. `left_out` gives the reason for each path that is of no interest."""

    entries: tuple[Entry, ...]
    rejected: tuple[Rejected, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


def make_listing(found: Iterable[Entry | Rejected | Ignored]) -> Listing:
    """Separates entries from rejected files and from what is left out."""
    found = list(found)
    entries = sorted((item for item in found if isinstance(item, Entry)), key=lambda entry: entry.path)
    rejected = tuple(item for item in found if isinstance(item, Rejected))
    return Listing(tuple(entries), rejected, {item.path: item.reason for item in found if isinstance(item, Ignored)})


def split_of(name: str) -> str | None:
    """The split that a folder, a column or a data set calls `name`; None where that is no usual name of one."""
    match = _SPLIT_NAME.fullmatch(name.strip())
    return match.lastgroup if match else None


def suffix_of(name: str) -> str:
    """The suffix in lower case, with its dot; empty where there is none."""
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def printable(text: str) -> str:
    """Text that any file can hold: the bytes of a name that is no UTF-8 become escapes."""
    return text.encode(errors="backslashreplace").decode()


def is_text(text: str) -> bool:
    """Whether a path or a label can be written as UTF-8, and opened."""
    return "\0" not in text and printable(text) == text


def checked_entry(path: str, label: Any, split: Any, uri: str | None, unreadable: str) -> Entry | Rejected | Ignored:
    """An entry as a manifest or an export describes it; rejected where label, split or location can't be used.

    Args:
        label, split: as written in the file; may be blank.
        uri: None where the file may not be read, for the reason `unreadable`.
    """
    if is_blank(label):
        return Ignored(printable(path), NO_LABEL)
    name = label_text(label)
    if name is None:
        return Rejected(printable(path), f"its label is {label!r:.80}: a text or a whole number is allowed")
    if not is_text(path) or not is_text(name):
        return Rejected(printable(path), NOT_TEXT, printable(name))
    given = "" if is_blank(split) or split != split else str(split).strip()  # NaN is not equal to itself
    if given and split_of(given) is None:
        return Rejected(path, f"its split is {given!r}; allowed are {', '.join(SPLITS)}, or none", name)
    if uri is None:
        return Rejected(path, unreadable, name)
    return Entry(path, uri, name, split_of(given))


def is_blank(value: Any) -> bool:
    """Whether a cell is empty."""
    return value is None or (isinstance(value, str) and not value.strip())


def label_text(label: Any) -> str | None:
    """A label of any type as text: whole numbers without a point; None for what is no label (NaN, 0.5, a list)."""
    if isinstance(label, float):
        return str(int(label)) if math.isfinite(label) and label.is_integer() else None
    return clean_label(label) if isinstance(label, str | int) else None


def clean_label(label: Any) -> str:
    """A label as trimmed text in Unicode's composed form, because file systems encode 'é' differently."""
    return unicodedata.normalize("NFC", str(label)).strip()


def open_url(url: str) -> tuple[Any, str]:
    """The file system of a local path or an fsspec URL, and the path in it."""
    return fsspec.core.url_to_fs(url if "://" in url else str(Path(url).expanduser()))


def read_list(fs: Any, path: str) -> bytes:
    """The content of a manifest or an export. Raises OSError where it is no regular file, or is too large."""
    if isinstance(fs, LocalFileSystem):
        try:
            return read_bytes(path, MAX_LIST_BYTES)
        except SourceError as exc:
            raise OSError(str(exc)) from exc
    if (size := fs.info(path).get("size") or 0) > MAX_LIST_BYTES:
        raise OSError(f"it has {size} bytes (at most {MAX_LIST_BYTES})")
    return fs.cat_file(path)


def check_regular(fs: Any, path: str) -> None:
    """Raises OSError where a local list is no regular file: a pipe has no end, and may wait for ever."""
    if isinstance(fs, LocalFileSystem) and Path(path).exists() and not Path(path).is_file():
        raise OSError("it is no file")


def read_head(fs: Any, path: str, size: int) -> bytes:
    """The first bytes of a manifest. Raises OSError where it is no regular file."""
    check_regular(fs, path)
    with fs.open(path, "rb") as file:
        return file.read(size)


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
