"""Lists a source: one entry for each labelled file, before any file is read.

A source is a folder with a sub-folder for each class; or splits (`train/`, `validation/`, `test/`) above such
folders; or a manifest, a `.csv`, `.jsonl` or `.parquet` of `path,label[,split]`; or Label Studio's JSON export; each on
a local disk or behind an fsspec URL; or `tfds:NAME[/CONFIG][:VERSION]`, a data set of tensorflow-datasets.

A source is never changed. Whether a file that may be an image is one depends on its content, which is read later.
"""

from __future__ import annotations

from typing import Any

from tasks.errors import SourceError
from tasks.ingest.entries import ALLOWED, LABEL_STUDIO_SUFFIX, MANIFEST_SUFFIXES, Listing, open_url
from tasks.ingest.folders import list_folders
from tasks.ingest.label_studio import list_label_studio
from tasks.ingest.manifest import list_manifest
from tasks.ingest.tfds_source import list_tfds
from tasks.records import Run


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
        return list_label_studio(source, fs, root, run.config.ingest.images_root)
    if not root.lower().endswith(MANIFEST_SUFFIXES):
        raise SourceError(f"the source {source!r} is a file of an unknown kind; {ALLOWED}")
    return list_manifest(source, fs, root, run.config.ingest.images_root)


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
