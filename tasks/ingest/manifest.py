"""Manifests: a `.csv`, `.jsonl` or `.parquet` file of `path,label[,split]`, a line for each image."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from tasks.errors import SourceError
from tasks.ingest.entries import SPLIT_FOLDERS, Entry, Listing, Rejected, clean_label, uri_of
from tasks.records import SPLITS

COLUMNS = ("path", "label")


def list_manifest(source: str, fs: Any, path: str) -> Listing:
    """The entries of the manifest at `path` of `fs`.

    A relative path starts at the manifest's folder and can't leave it. A local manifest may also name absolute
    paths and URLs; one that came from elsewhere may only name files of its own kind of storage, never local ones.

    Raises:
        SourceError: the manifest can't be read, lacks a column, or has no line with a path and a label.
    """
    rows = _read(source, fs, path)
    entries: list[Entry] = []
    rejected: list[Rejected] = []
    for row in rows:
        judged = _judge(row, fs, posixpath.dirname(path), source)
        (entries if isinstance(judged, Entry) else rejected).append(judged)  # type: ignore[arg-type]
    if not entries:
        found = f"; the first line: {rejected[0].reason}" if rejected else ""
        raise SourceError(f"the manifest {source!r} has no line with a path and a label{found}")
    return Listing(tuple(sorted(entries, key=lambda entry: entry.path)), tuple(rejected))


def _read(source: str, fs: Any, path: str) -> Sequence[Mapping[str, Any]]:
    try:
        content = fs.cat_file(path)
        if path.lower().endswith(".parquet"):
            rows, columns = _parquet_rows(content)
        elif path.lower().endswith(".csv"):
            reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
            rows, columns = list(reader), list(reader.fieldnames or ())
        else:
            rows = [json.loads(line) for line in content.decode("utf-8-sig").splitlines() if line.strip()]
            columns = sorted({key for row in rows for key in row}) if rows else list(COLUMNS)
    except (OSError, ValueError, AttributeError, TypeError, csv.Error) as exc:
        raise SourceError(f"the manifest {source!r} can't be read: {exc}") from exc
    if missing := [name for name in COLUMNS if name not in columns]:
        raise SourceError(
            f"the manifest {source!r} has no column {' and no column '.join(missing)}; found {', '.join(columns)}; "
            "it needs path,label and may have split"
        )
    return rows


def _parquet_rows(content: bytes) -> tuple[list[Mapping[str, Any]], list[str]]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(content))
    columns = file.schema_arrow.names
    return file.read([name for name in (*COLUMNS, "split") if name in columns]).to_pylist(), columns


def _judge(row: Mapping[str, Any], fs: Any, folder: str, source: str) -> Entry | Rejected:
    path = str(row.get("path") or "").strip()
    if not path:
        return Rejected("(no path)", f"a line of the manifest names no file: {_brief(row.values())}")
    label = "" if row.get("label") is None else clean_label(row["label"])
    if not label:
        return Rejected(path, "the manifest gives it no label")
    given = str(row.get("split") or "").strip()
    split = SPLIT_FOLDERS.get(given.lower())
    if given and split is None:
        return Rejected(path, f"its split is {given!r}; allowed are {', '.join(SPLITS)}, or none", label)
    uri = locate(path, fs, folder, source)
    if uri is None:
        return Rejected(path, "its path leads out of what this manifest may name", label)
    return Entry(path, uri, label, split)


def locate(path: str, fs: Any, folder: str, source: str) -> str | None:
    """What reads `path`, or None where the manifest may not name it."""
    local = isinstance(fs, LocalFileSystem)
    if "://" in path:
        protocol = path.split("://", 1)[0]
        own = fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)
        return path if local or protocol in own else None
    if path.startswith("/"):
        return path if local else None
    inside = posixpath.normpath(path.replace("\\", "/"))
    return None if inside == ".." or inside.startswith("../") else uri_of(fs, f"{folder}/{inside}", source)


def _brief(values: Iterable[Any]) -> str:
    return ", ".join(str(value) for value in values if value)[:80] or "it is blank"
