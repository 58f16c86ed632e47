"""Lists a pool: a folder, a bucket or a table of images or texts, whose labels, where there are any, don't count."""

from __future__ import annotations

import io
import posixpath
from typing import Any

import pandas as pd

from tasks.errors import SourceError
from tasks.ingest.entries import (
    MANIFEST_SUFFIXES,
    NOT_TEXT,
    SUFFIXES,
    Entry,
    Ignored,
    Listing,
    Rejected,
    is_text,
    make_listing,
    open_url,
    printable,
    read_list,
    suffix_of,
)
from tasks.ingest.manifest import LEADS_OUT, locate, table_rows, unreadable_scheme
from tasks.ingest.walk import Found, walk
from tasks.modality.items import uri_of_text
from tasks.modality.texts.content import tidy
from tasks.records import Run
from tasks.storage.tables import delimiter_of

ALLOWED = (
    "a pool is a folder or a bucket of images, or a .csv, .jsonl or .parquet file with a column 'path'; of texts, a "
    "folder of .txt files, or such a file with a column 'text'"
)
UNLABELLED = ""


def list_pool(run: Run) -> Listing:
    """Lists the images of the run's source, sorted by path; a table's once for each path.

    Raises:
        SourceError: the pool is missing, has no image, or is of an unknown form.
    """
    try:
        fs, root = open_url(run.source)
        fs.invalidate_cache()
        if fs.isdir(root):
            found = [_entry(item, run.config.task) for item in walk(run, fs, root.rstrip("/"))]
        elif not fs.exists(root):
            raise SourceError(f"the pool {run.source!r} does not exist; {ALLOWED}")
        elif not root.lower().endswith(MANIFEST_SUFFIXES):
            raise SourceError(f"the pool {run.source!r} is a file of an unknown kind; {ALLOWED}")
        else:
            found = _table_entries(run, fs, root)
    except (ValueError, ImportError, OSError) as exc:
        raise SourceError(f"the pool {run.source!r} can't be read: {exc}; {ALLOWED}") from exc
    listing = make_listing(found)
    if not listing.entries and not listing.rejected:
        left_out = next(iter(listing.left_out.items()), None)
        found_what = f"; left out {left_out[0]}: {left_out[1]}" if left_out else ""
        raise SourceError(f"the pool {run.source!r} has no {run.config.task}{found_what}; {ALLOWED}")
    return listing


def _entry(item: Found, task: str) -> Entry | Rejected | Ignored:
    path, suffix = "/".join(item.parts), suffix_of(item.parts[-1])
    if item.fault:
        return (Rejected if item.ours else Ignored)(printable(path), item.fault)
    if suffix and suffix not in SUFFIXES[task]:
        kind = "a text" if task == "text" else "an image"
        return Ignored(printable(path), f"its name is not {kind}'s (*{printable(suffix)})")
    if not is_text(path):
        return Rejected(printable(path), NOT_TEXT)
    return Entry(path, item.uri, UNLABELLED, **item.remote)


def _table_entries(run: Run, fs: Any, table: str) -> list[Entry | Rejected | Ignored]:
    if run.config.task == "text":
        return _texts(run, fs, table)
    root = run.config.ingest.images_root
    images, folder = open_url(root) if root else (fs, posixpath.dirname(table))
    paths = dict.fromkeys(_paths(read_list(fs, table), table.lower()))
    return [_located(str(path).strip(), images, folder, root or run.source) for path in paths]


def _texts(run: Run, fs: Any, table: str) -> list[Entry | Rejected | Ignored]:
    """The texts of a table, each once."""
    column = run.config.ingest.text_column
    found: dict[str, Entry | Rejected | Ignored] = {}
    for number, row in table_rows(run.source, fs, table, {"text": (column,)}):
        text, where = row["text"], f"line {number}"
        tidied = tidy(text) if isinstance(text, str) and is_text(text) else ""
        entry = Entry(where, uri_of_text(tidied), UNLABELLED) if tidied else Rejected(where, "it has no text")
        found.setdefault(tidied or where, entry)
    return list(found.values())


def _paths(content: bytes, name: str) -> list[str]:
    """The column 'path'. Raises ValueError where there is none, or the table can't be read."""
    file = io.BytesIO(content)
    if name.endswith(".parquet"):
        table = pd.read_parquet(file)
    elif name.endswith(".csv"):
        separator = delimiter_of(content.split(b"\n", 1)[0].decode("utf-8-sig"))
        table = pd.read_csv(file, sep=separator, dtype=str, encoding="utf-8-sig", keep_default_na=False)
    else:
        table = pd.read_json(file, lines=True, dtype=False)
    named = {str(column).strip().lower(): column for column in reversed(list(table.columns))}
    if "path" not in named:
        raise ValueError(f"it has no column 'path'; found {', '.join(map(str, table.columns)) or 'none'}")
    return table[named["path"]].dropna().tolist()


def _located(path: str, fs: Any, folder: str, source: str) -> Entry | Rejected:
    uri = locate(path, fs, folder, source, above=True) if path and is_text(path) else None
    if uri and "://" in uri and (missing := unreadable_scheme(uri.split("://", 1)[0])):
        return Rejected(path, missing)
    return Entry(path, uri, UNLABELLED) if uri else Rejected(printable(path) or "(no path)", LEADS_OUT)
