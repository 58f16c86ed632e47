"""Manifests: a `.csv`, `.jsonl` or `.parquet` file of `path,label[,split]`, a line for each image, or of
`text,label[,split]`, a line for each text."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from tasks.config import Ingest
from tasks.errors import SourceError
from tasks.ingest.entries import (
    Entry,
    Ignored,
    Listing,
    Rejected,
    check_regular,
    checked_entry,
    is_blank,
    is_text,
    make_listing,
    open_url,
    printable,
    read_head,
    read_list,
    uri_of,
)
from tasks.modality.items import uri_of_text
from tasks.modality.texts.content import tidy
from tasks.storage.tables import delimiter_of

PATH, LABEL, SPLIT = "path", "label", "split"
# What the column of labels is called in tables of texts that are to be had.
LABEL_NAMES = (LABEL, "category", "class", "intent", "target")
# By the first bytes; without them UTF-8.
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
HEADER_BYTES = 1 << 20  # a header is in them
Row = tuple[int, Mapping[str, Any]]
# Numbered rows, the columns, and how the file was read, for a message.
Rows = tuple[Sequence[Row], Sequence[str], str]
LEADS_OUT = "its path leads out of what this manifest may name"


def list_manifest(source: str, fs: Any, path: str, ingest: Ingest) -> Listing:
    """Lists the entries of the manifest at `path` of `fs`; of texts, each line holds its own.

    A relative path starts at `ingest.images_root`, or else at the manifest's folder. A local manifest may also name
    absolute paths, paths above its folder, and URLs; a remote one may only name files on the same kind of storage, and
    relative ones below its folder.

    Raises:
        SourceError: the manifest can't be read, lacks a column, or has no line with a path (or a text) and a label.
    """
    rows = _read(source, fs, path, ingest)
    root = ingest.images_root
    root_fs, folder = open_url(root) if root else (fs, posixpath.dirname(path))
    texts = ingest.task == "text"
    listing = make_listing(
        _text_entry(number, row) if texts else _entry(number, row, root_fs, folder, root or source)
        for number, row in rows
    )
    if not listing.entries:
        found = f"; the first line: {listing.rejected[0].reason}" if listing.rejected else ""
        raise SourceError(
            f"the manifest {source!r} has no line with a {'text' if texts else 'path'} and a label{found}"
        )
    return listing


def is_of_texts(fs: Any, path: str, text_column: str) -> bool:
    """Whether a manifest has a column of texts and none of paths. Raises SourceError."""
    names = {column.strip().lower() for column in _columns(fs, path)}
    return text_column.lower() in names and PATH not in names


def _columns(fs: Any, path: str) -> Iterable[str]:
    """The columns of a table, of which no more is read than they take; of a .jsonl file the keys of its first line.

    Raises SourceError where it can't be read.
    """
    try:
        if path.lower().endswith(".parquet"):
            import pyarrow.parquet as pq

            check_regular(fs, path)
            with fs.open(path, "rb") as file:
                return pq.read_schema(file).names
        head = read_head(fs, path, HEADER_BYTES)
        # What is no text is named by who lists the table; the last character may be cut in two.
        first = head.decode(_encoding(head), errors="replace").lstrip().partition("\n")[0]
        if path.lower().endswith(".csv"):
            return next(csv.reader([first.rstrip("\r")], delimiter=delimiter_of(first)), [])
        row = json.loads(first) if first.strip() else {}
        return row if isinstance(row, dict) else ()
    except (OSError, ValueError, RecursionError, csv.Error) as exc:
        raise SourceError(f"the manifest {path!r} can't be read: {exc}") from exc


def table_rows(source: str, fs: Any, path: str, wanted: Mapping[str, Sequence[str]]) -> Iterator[Row]:
    """The rows of a table with their numbers: lines of a text, counted from 1 with the header, or rows of a Parquet
    file.

    Args:
        wanted: by the keys of the result, the names that its column may have, the first that there is; without any of
            them, a key is null.
    """
    rows, columns, _ = _table(source, fs, path)
    return _picked(rows, _found(columns, wanted))


def _read(source: str, fs: Any, path: str, ingest: Ingest) -> Iterator[Row]:
    """The rows with the columns that an entry is made of. Raises SourceError where one is missing."""
    rows, columns, shape = _table(source, fs, path)
    item = ingest.text_column if ingest.task == "text" else PATH
    labels = (ingest.label_column,) if ingest.label_column else LABEL_NAMES if ingest.task == "text" else (LABEL,)
    found = _found(columns, {"item": (item,), LABEL: labels, SPLIT: (SPLIT,)})
    if missing := [name for name, key in ((item, "item"), (labels[0], LABEL)) if found[key] is None]:
        raise SourceError(
            f"the manifest {source!r} has no column {' and no column '.join(missing)}; found "
            f"{', '.join(map(str, columns)) or 'none'}{shape}; its first line has to be {item},{labels[0]} or "
            f"{item},{labels[0]},split"
        )
    return _picked(rows, found)


def _found(columns: Sequence[str], wanted: Mapping[str, Sequence[str]]) -> dict[str, str | None]:
    named = {str(column).strip().lower(): column for column in reversed(list(columns))}
    return {
        key: next((named[name.lower()] for name in names if name.lower() in named), None)
        for key, names in wanted.items()
    }


def _picked(rows: Sequence[Row], found: Mapping[str, str | None]) -> Iterator[Row]:
    return (
        (number, {key: row.get(column) if column is not None else None for key, column in found.items()})
        for number, row in rows
    )


def _table(source: str, fs: Any, path: str) -> Rows:
    """Raises SourceError where the file can't be read."""
    try:
        content = read_list(fs, path)
        if path.lower().endswith(".parquet"):
            return _parquet_rows(content)
        return _csv_rows(content) if path.lower().endswith(".csv") else _json_rows(content)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError, csv.Error) as exc:
        raise SourceError(f"the manifest {source!r} can't be read: {exc}") from exc


def _csv_rows(content: bytes) -> Rows:
    """Rows with their lines' numbers, columns, and how the file was read."""
    text, encoding = _decoded(content)
    first = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = delimiter_of(first)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows = [(reader.line_num, row) for row in reader]
    shape = f" (read as {encoding}, separated by {delimiter!r})"
    return rows, list(reader.fieldnames or ()), shape


def _json_rows(content: bytes) -> Rows:
    text, encoding = _decoded(content)
    rows = []
    # Not by `splitlines`: a text may hold any of the other characters that it takes for a line's end.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise ValueError(f"line {number}: {exc or type(exc).__name__}") from exc
        if not isinstance(row, dict):
            raise TypeError(f"line {number} is no JSON object, but {line.strip()[:40]!r}")
        rows.append((number, row))
    columns = sorted({key for _, row in rows for key in row}) if rows else [PATH, LABEL]
    return rows, columns, f" (read as {encoding})"


def _encoding(content: bytes) -> str:
    """By a byte order mark, else UTF-8."""
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")


def _decoded(content: bytes) -> tuple[str, str]:
    """The text and its encoding. Raises ValueError."""
    encoding = _encoding(content)
    try:
        return content.decode(encoding), encoding
    except UnicodeDecodeError as exc:
        raise ValueError(
            f"it is not {encoding} (byte {exc.start} is {content[exc.start]:#04x}): save it as UTF-8, which "
            "spreadsheets call 'CSV UTF-8'"
        ) from exc


def _parquet_rows(content: bytes) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(content))
    flat = [field.name for field in file.schema_arrow if not pa.types.is_nested(field.type)]
    return list(enumerate(file.read(flat).to_pylist(), start=1)), file.schema_arrow.names, ""


def _text_entry(number: int, row: Mapping[str, Any]) -> Entry | Rejected | Ignored:
    """A line of texts: what is in it is its content, so where the table lies plays no part."""
    text, where = row["item"], f"line {number}"
    if is_blank(text) or not isinstance(text, str):
        return Rejected(where, f"its text is {'blank' if is_blank(text) else f'{text!r:.80}: a text is allowed'}")
    if not is_text(text):
        return Rejected(where, "its text holds a NUL or is not valid Unicode")
    return checked_entry(where, row[LABEL], row[SPLIT], uri_of_text(tidy(text)), "")


def _entry(number: int, row: Mapping[str, Any], fs: Any, folder: str, source: str) -> Entry | Rejected | Ignored:
    path, where = row["item"], f"line {number} of the manifest"
    if is_blank(path):
        content = ", ".join(str(value) for value in row.values() if value)[:80]
        return Rejected("(no path)", f"{where} has no path: {printable(content) or 'it is blank'}")
    if not isinstance(path, str):
        return Rejected(f"({where})", f"its path is {path!r:.80}: a text is allowed")
    path = path.strip()
    uri, fault = locate(path, fs, folder, source, above=True), LEADS_OUT
    if uri and "://" in uri and (missing := unreadable_scheme(uri.split("://", 1)[0])):
        uri, fault = None, missing
    entry = checked_entry(path, row[LABEL], row[SPLIT], uri, fault)
    if isinstance(entry, Rejected):
        return Rejected(entry.path, f"{where}: {entry.reason}", entry.label)
    return entry


def locate(path: str, fs: Any, folder: str, source: str, above: bool = False) -> str | None:
    """The URI of `path`, or None where a manifest in `folder` of `fs` may not name it.

    `above`: a relative path may lead out of a local folder.
    """
    local = isinstance(fs, LocalFileSystem)
    if "://" in path:
        protocol = path.split("://", 1)[0]
        own = fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)
        return path if local or protocol in own else None
    if path.startswith("/"):
        return path if local else None
    inside = posixpath.normpath(path.replace("\\", "/"))
    if (inside == ".." or inside.startswith("../")) and not (local and above):
        return None
    return uri_of(fs, posixpath.normpath(f"{folder}/{inside}") if local else f"{folder}/{inside}", source)


@cache
def unreadable_scheme(protocol: str) -> str | None:
    """Why URLs of this scheme can't be read on this machine; None where they can."""
    if protocol not in fsspec.available_protocols():
        return f"{protocol}:// is no scheme that is known; schemes are written in lower case, such as s3://"
    try:
        fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as exc:
        return f"{protocol}:// can't be read here: {exc}"
    return None
