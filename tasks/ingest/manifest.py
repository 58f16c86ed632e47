"""Manifests: a `.csv`, `.jsonl` or `.parquet` file of `path,label[,split]`, a line for each image."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from tasks.errors import SourceError
from tasks.ingest.entries import Entry, Listing, Rejected, checked_entry, clean_label, make_listing, uri_of

COLUMNS = ("path", "label")


def list_manifest(source: str, fs: Any, path: str) -> Listing:
    """Lists the entries of the manifest at `path` of `fs`.

    A relative path starts at the manifest's folder and can't leave it. A local manifest may also name absolute
    paths and URLs; a remote one may only name files on the same kind of storage.

    Raises:
        SourceError: the manifest can't be read, lacks a column, or has no line with a path and a label.
    """
    folder = posixpath.dirname(path)
    listing = make_listing(_entry(row, fs, folder, source) for row in _read(source, fs, path))
    if not listing.entries:
        found = f"; the first line: {listing.rejected[0].reason}" if listing.rejected else ""
        raise SourceError(f"the manifest {source!r} has no line with a path and a label{found}")
    return listing


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


def _entry(row: Mapping[str, Any], fs: Any, folder: str, source: str) -> Entry | Rejected:
    path = str(row.get("path") or "").strip()
    if not path:
        content = ", ".join(str(value) for value in row.values() if value)[:80]
        return Rejected("(no path)", f"a line of the manifest has no path: {content or 'it is blank'}")
    label = "" if row.get("label") is None else clean_label(row["label"])
    uri = locate(path, fs, folder, source)
    return checked_entry(path, label, row.get("split"), uri, "its path leads out of what this manifest may name")


def locate(path: str, fs: Any, folder: str, source: str) -> str | None:
    """The URI of `path`, or None where a manifest in `folder` of `fs` may not name it."""
    local = isinstance(fs, LocalFileSystem)
    if "://" in path:
        protocol = path.split("://", 1)[0]
        own = fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)
        return path if local or protocol in own else None
    if path.startswith("/"):
        return path if local else None
    inside = posixpath.normpath(path.replace("\\", "/"))
    return None if inside == ".." or inside.startswith("../") else uri_of(fs, f"{folder}/{inside}", source)
