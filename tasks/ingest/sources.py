"""Lists a source: one entry for each labelled file, before any file is read.

A source is a folder with a sub-folder for each class; or splits (`train/`, `validation/`, `test/`) above such
folders; or a manifest, a `.csv`, `.jsonl` or `.parquet` of `path,label[,split]` or `text,label[,split]`; or Label
Studio's JSON export; each on a local disk or behind an fsspec URL; or `tfds:NAME[/CONFIG][:VERSION]`, a data set of
tensorflow-datasets.

A source is never changed. Whether a file that may be an image is one depends on its content, which is read later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tasks.errors import SourceError
from tasks.ingest import label_studio, manifest
from tasks.ingest.entries import (
    ALLOWED,
    IMAGE_SUFFIXES,
    LABEL_STUDIO_SUFFIX,
    MANIFEST_SUFFIXES,
    TEXT_SUFFIXES,
    Listing,
    open_url,
    suffix_of,
)
from tasks.ingest.folders import list_folders
from tasks.ingest.label_studio import list_label_studio
from tasks.ingest.manifest import list_manifest
from tasks.ingest.tfds_source import list_tfds
from tasks.records import Run

LOOKED_AT = 8  # folders


def list_source(run: Run) -> Listing:
    """Lists the run's source, sorted by path.

    Raises:
        SourceError: the source is missing, empty, of an unknown form, or has no class folder with a file in it.
    """
    source = run.source
    if source.startswith("tfds:"):
        return list_tfds(source, run.workspace)
    fs, root = _open(source)
    if fs.isdir(root):
        return list_folders(run, fs, root)
    if not fs.exists(root):
        raise SourceError(f"the source {source!r} does not exist; {ALLOWED}")
    if root.lower().endswith(LABEL_STUDIO_SUFFIX):
        return list_label_studio(source, fs, root, run.config.ingest)
    if not root.lower().endswith(MANIFEST_SUFFIXES):
        raise SourceError(f"the source {source!r} is a file of an unknown kind; {ALLOWED}")
    return list_manifest(source, fs, root, run.config.ingest)


def with_task(run: Run) -> Run:
    """The run with the kind of its items in its configuration, and what goes by it: found from the source where
    `ingest.task` is `auto`.

    A folder is of texts where the first class folders hold .txt files and no images. A source that is not there, or
    can't be read, is left to who lists it.

    Raises:
        ConfigError: the configuration asks for a network of the other kind.
    """
    asked = run.config.ingest.task
    task = ("text" if _holds_texts(run) else "image") if asked == "auto" else asked
    return replace(run, config=run.config.with_task(task))


def _holds_texts(run: Run) -> bool:
    source, column = run.source, run.config.ingest.text_column
    if source.startswith("tfds:"):
        return False
    try:
        fs, root = _open(source)
        if root.lower().endswith(LABEL_STUDIO_SUFFIX):
            return label_studio.is_of_texts(source, fs, root, column)
        if root.lower().endswith(MANIFEST_SUFFIXES):
            return manifest.is_of_texts(fs, root, column)
        return _folder_holds_texts(fs, root)
    except (SourceError, OSError):
        return False


def _folder_holds_texts(fs: Any, root: str) -> bool:
    """Looks at a few folders below the root: a large bucket is not listed for this."""
    waiting, texts = _folders(fs.ls(root, detail=True)), False
    for _ in range(LOOKED_AT):
        if not waiting:
            break
        found = fs.ls(waiting.pop(0), detail=True)
        suffixes = {suffix_of(item["name"].rsplit("/", 1)[-1]) for item in found if item["type"] == "file"}
        if suffixes & IMAGE_SUFFIXES:
            return False
        texts = texts or bool(suffixes & TEXT_SUFFIXES)
        waiting += _folders(found)
    return texts


def _folders(found: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted(item["name"] for item in found if item["type"] == "directory")


def check_source(run: Run) -> None:
    """Raises SourceError where the source is missing or of an unknown kind; a folder may still be empty.

    Folders on an object store are not checked: an empty one does not exist there.
    """
    fs, root = _open(run.source)
    if "://" in run.source and not root.lower().endswith((*MANIFEST_SUFFIXES, LABEL_STUDIO_SUFFIX)):
        return
    if not fs.exists(root):
        raise SourceError(f"the source {run.source!r} does not exist; {ALLOWED}")
    if not fs.isdir(root):
        list_source(run)


def _open(source: str) -> tuple[Any, str]:
    try:
        fs, root = open_url(source)
        fs.invalidate_cache()  # the folder grows, so an earlier listing is out of date
    except (ValueError, ImportError, OSError) as exc:
        raise SourceError(f"the source {source!r} can't be opened: {exc}; {ALLOWED}") from exc
    return fs, root.rstrip("/") or root
