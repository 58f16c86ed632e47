"""Label Studio's JSON export as a source: image classification by choices, one label for each image.

Format: https://labelstud.io/guide/export#Label-Studio-JSON-format-of-annotated-tasks. All annotations of a task that
were not cancelled must agree on one choice; where some are marked as ground truth, only those count. Tasks without a
label are skipped: the next export may have one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tasks.errors import SourceError
from tasks.ingest.entries import (
    IMAGE_SUFFIXES,
    Entry,
    Listing,
    Rejected,
    checked_entry,
    clean_label,
    make_listing,
    open_url,
)
from tasks.ingest.manifest import locate

# Label Studio serves uploaded files below the first, and files of local storage as /data/local-files/?d=PATH.
SERVED, LOCAL_FILES = "/data/", "/data/local-files/"
STORES = ("s3", "gs", "gcs", "az", "abfs", "abfss")
EXPORT_AS = "export the project as JSON (not JSON-MIN), or give a .csv of path,label"


def list_label_studio(source: str, fs: Any, path: str, images_root: str = "") -> Listing:
    """Lists the labelled images of the export at `path` of `fs`.

    Paths of images start at `images_root` (a folder or an fsspec URL; by default the export's own folder) and can't
    leave it: those of uploads (`/data/upload/…`), of local storage (`/data/local-files/?d=…`) and plain relative ones.
    URLs of object stores are read as given; web addresses are never fetched.

    Raises:
        SourceError: the file is no such export, has several classifications, or has no labelled image.
    """
    tasks = _read(source, fs, path)
    _check_one_choice(source, tasks)
    root_fs, root = open_url(images_root) if images_root else (fs, str(PurePosixPath(path).parent))
    listing = make_listing(_entry(task, root_fs, root, images_root or source) for task in tasks)
    if not listing.entries:
        first = next(iter(listing.rejected), None)
        found = f"; the first rejected one: {first.path}: {first.reason}" if first else ""
        raise SourceError(f"the Label Studio export {source!r} has no labelled image among {len(tasks)} tasks{found}")
    return listing


def _read(source: str, fs: Any, path: str) -> Sequence[Mapping[str, Any]]:
    try:
        tasks = json.loads(fs.cat_file(path).decode("utf-8-sig"))
    except (OSError, ValueError) as exc:
        raise SourceError(f"the Label Studio export {source!r} can't be read: {exc}") from exc
    whole = isinstance(tasks, list) and all(
        isinstance(task, dict) and isinstance(task.get("data"), dict) and isinstance(task.get("annotations"), list)
        for task in tasks
    )
    if not whole:
        raise SourceError(
            f"{source!r} is not Label Studio's JSON export, a list of tasks with 'data' and 'annotations'; {EXPORT_AS}"
        )
    return tasks


def _check_one_choice(source: str, tasks: Sequence[Mapping[str, Any]]) -> None:
    names = {str(name) for task in tasks for annotation in task["annotations"] for name, _ in _choices(annotation)}
    if len(names) > 1:
        raise SourceError(
            f"the Label Studio export {source!r} has several classifications, {', '.join(sorted(names))}: one is "
            "allowed; export a project that has one, or give a .csv of path,label"
        )


def _choices(annotation: Any) -> Iterator[tuple[Any, list[Any]]]:
    """The name and the chosen labels of each classification in an annotation."""
    for result in annotation.get("result") or [] if isinstance(annotation, dict) else []:
        value = result.get("value") if isinstance(result, dict) else None
        if isinstance(value, dict) and isinstance(value.get("choices"), list):
            yield result.get("from_name"), value["choices"]


def _entry(task: Mapping[str, Any], fs: Any, root: str, source: str) -> Entry | Rejected | None:
    """A task as an entry, or why it can't be one; None where it has no label yet."""
    votes = _votes(task["annotations"])
    if not votes:
        return None
    shown = f"task {task.get('id', '(no id)')}"
    image = _image(task["data"])
    if image is None:
        return Rejected(shown, "it is not clear which of its data is the image: name it 'image'")
    if several := next((labels for labels in votes if len(labels) > 1), None):
        return Rejected(image, f"{shown} gives it {len(several)} labels, {', '.join(several)}: one is allowed")
    if len(votes) > 1:
        given = ", ".join(f"{labels[0]!r} ({count})" for labels, count in sorted(votes.items()))
        return Rejected(image, f"the annotators of {shown} disagree: {given}; cancel the wrong annotation")
    [label] = next(iter(votes))
    path = _relative(image)
    uri, unreadable = _locate(image, path, fs, root, source)
    entry = checked_entry(image, label, task["data"].get("split"), uri, unreadable)
    return replace(entry, path=path) if isinstance(entry, Entry) else entry


def _votes(annotations: Sequence[Any]) -> Counter[tuple[str, ...]]:
    """How many of the annotations that count chose each combination of labels."""
    valid = [each for each in annotations if isinstance(each, dict) and not each.get("was_cancelled")]
    counted = [each for each in valid if each.get("ground_truth")] or valid
    chosen = (tuple(clean_label(label) for _, labels in _choices(each) for label in labels) for each in counted)
    return Counter(labels for labels in chosen if labels)


def _image(data: Mapping[str, Any]) -> str | None:
    """The address of a task's image: its `image`, or the only value that looks like one."""
    if isinstance(data.get("image"), str):
        return data["image"].strip() or None
    texts = [value for value in data.values() if isinstance(value, str)]
    found = [text for text in texts if PurePosixPath(_relative(text)).suffix.lower() in IMAGE_SUFFIXES]
    return found[0] if len(found) == 1 else None


def _relative(address: str) -> str:
    """The path below the root for one of Label Studio's own addresses; other addresses unchanged."""
    if address.startswith(LOCAL_FILES):
        return next(iter(parse_qs(urlsplit(address).query).get("d", [])), "")
    return address.removeprefix(SERVED)


def _locate(image: str, path: str, fs: Any, root: str, source: str) -> tuple[str | None, str]:
    """The URI of an image; None, with the reason, where it may not be read."""
    protocol = image.split("://", 1)[0].lower() if "://" in image else ""
    if protocol in ("http", "https"):
        return None, "web addresses are not fetched: copy the images, and set ingest.images_root"
    if protocol and protocol not in STORES:
        return None, f"{protocol}:// is not read; allowed are {', '.join(STORES)}, and paths"
    uri = locate(path, fs, root, source) if path and not path.startswith("/") else None
    return uri, "its path leads out of the folder of images (ingest.images_root)"
