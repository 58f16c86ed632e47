"""Label Studio's JSON export as a source: classification by choices, one label for each image or text.

Format: https://labelstud.io/guide/export#Label-Studio-JSON-format-of-annotated-tasks. All annotations of a task that
were not cancelled must agree on one choice; where some are marked as ground truth, only those count. Tasks without a
label are skipped: the next export may have one.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from tasks.config import Ingest
from tasks.errors import SourceError
from tasks.ingest.entries import (
    IMAGE_SUFFIXES,
    Entry,
    Ignored,
    Listing,
    Rejected,
    checked_entry,
    is_text,
    label_text,
    make_listing,
    open_url,
    read_list,
)
from tasks.ingest.manifest import locate, unreadable_scheme
from tasks.modality.items import uri_of_text
from tasks.modality.texts.content import tidy

# Label Studio serves uploads as /data/upload/PATH, local storage as /data/local-files/?d=PATH, and its own storage as
# /storage-data/uploaded/?filepath=PATH, each behind a host and a path of its own where it has one.
UPLOADS = "/data/upload/"
SERVED = "/data/"
QUERIES = {"/data/local-files/": "d", "/storage-data/uploaded/": "filepath"}
# Files of an object store, as /tasks/ID/resolve/?fileuri=BASE64, or `presign`.
RESOLVED = "fileuri"
AZURE = "azure-blob://"  # its own name of az://
STORES = ("s3", "gs", "gcs", "az", "abfs", "abfss")
EXPORT_AS = "export the project as JSON (not JSON-MIN), or give a .csv of path,label"


def list_label_studio(source: str, fs: Any, path: str, ingest: Ingest) -> Listing:
    """Lists the labelled images or texts of the export at `path` of `fs`; a text is in its task.

    Paths of images start at `images_root` (a folder or an fsspec URL; by default the export's own folder) and can't
    leave it: those of uploads (`/data/upload/…`), of local storage (`/data/local-files/?d=…`) and plain relative ones.
    A path may be percent-encoded: of its readings, the first that names a file counts.
    URLs of object stores are read as given; web addresses are never fetched.

    Raises:
        SourceError: the file is no such export, has several classifications, or has no labelled image.
    """
    tasks = _read(source, fs, path)
    _check_one_choice(source, tasks)
    images_root = ingest.images_root
    root_fs, root = open_url(images_root) if images_root else (fs, str(PurePosixPath(path).parent))
    column = ingest.text_column if ingest.task == "text" else None
    listing = make_listing(_entry(task, root_fs, root, images_root or source, column) for task in tasks)
    if not listing.entries:
        first = next(iter(listing.rejected), None)
        found = f"; the first rejected one: {first.path}: {first.reason}" if first else ""
        item = "text" if column else "image"
        raise SourceError(f"the Label Studio export {source!r} has no labelled {item} among {len(tasks)} tasks{found}")
    return listing


def is_of_texts(source: str, fs: Any, path: str, text_column: str) -> bool:
    """Whether the tasks of an export hold texts and no images. Raises SourceError."""
    tasks = _read(source, fs, path)
    return any(isinstance(task["data"].get(text_column), str) for task in tasks) and not any(
        _image(task["data"]) for task in tasks
    )


def _read(source: str, fs: Any, path: str) -> Sequence[Mapping[str, Any]]:
    try:
        tasks = json.loads(read_list(fs, path).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as exc:
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


def _entry(
    task: Mapping[str, Any], fs: Any, root: str, source: str, text_column: str | None
) -> Entry | Rejected | Ignored:
    """A task as an entry, or why it can't be one."""
    shown = f"task {task.get('id', '(no id)')}"
    votes = _votes(task["annotations"])
    if not votes:
        return Ignored(shown, "it has no label yet")
    text = task["data"].get(text_column) if text_column else None
    image = shown if text_column else _image(task["data"])
    if image is None:
        return Rejected(shown, "it is not clear which of its data is the image: name it 'image'")
    if text_column and (not isinstance(text, str) or not tidy(text) or not is_text(text)):
        return Rejected(shown, f"it has no text: its data need {text_column!r}")
    if several := next((labels for labels in votes if len(labels) > 1), None):
        return Rejected(image, f"{shown} gives it {len(several)} labels, {', '.join(several)}: one is allowed")
    if len(votes) > 1:
        given = ", ".join(f"{labels[0]!r} ({count})" for labels, count in sorted(votes.items()))
        return Rejected(image, f"the annotators of {shown} disagree: {given}; cancel the wrong annotation")
    [label] = next(iter(votes))
    if isinstance(text, str):
        return checked_entry(shown, label, task["data"].get("split"), uri_of_text(tidy(text)), "")
    path, uri, unreadable = _locate(image, fs, root, source)
    entry = checked_entry(image, label, task["data"].get("split"), uri, unreadable)
    return replace(entry, path=path) if isinstance(entry, Entry) else entry


def _votes(annotations: Sequence[Any]) -> Counter[tuple[str, ...]]:
    """How many of the annotations that count chose each combination of labels."""
    valid = [each for each in annotations if isinstance(each, dict) and not each.get("was_cancelled")]
    counted = [each for each in valid if each.get("ground_truth")] or valid
    chosen = (
        tuple(label_text(label) or repr(label) for _, labels in _choices(each) for label in labels) for each in counted
    )
    return Counter(labels for labels in chosen if labels)


def _image(data: Mapping[str, Any]) -> str | None:
    """The address of a task's image: its `image`, or the only value that looks like one."""
    if isinstance(data.get("image"), str):
        return data["image"].strip() or None
    texts = [value for value in data.values() if isinstance(value, str)]
    found = [text for text in texts if PurePosixPath(_readings(text)[0]).suffix.lower() in IMAGE_SUFFIXES]
    return found[0] if len(found) == 1 else None


def _readings(address: str) -> list[str]:
    """The paths or URLs that an address may stand for, the likeliest first: unquoted, as it is, with '+' as a space."""
    if address.startswith(AZURE):
        return [f"az://{address.removeprefix(AZURE)}"]
    parts = urlsplit(address) if "://" not in address or address.lower().startswith(("http://", "https://")) else None
    if parts is None:
        return [address]
    if encoded := _query_value(parts.query, RESOLVED):
        return _readings(_resolved(encoded))
    key = next((key for prefix, key in QUERIES.items() if parts.path.endswith(prefix)), None)
    if key:
        raw = _query_value(parts.query, key)
    elif UPLOADS in parts.path:
        raw = parts.path[parts.path.index(UPLOADS) + len(SERVED) :]
    elif parts.scheme:
        return [address]
    else:
        raw = address.removeprefix(SERVED)
    raw = raw.replace("\\", "/")  # of a server on Windows
    return list(dict.fromkeys([unquote(raw), raw, unquote(raw.replace("+", " "))]))


def _query_value(query: str, key: str) -> str:
    """A value of a query as it is written: '+' stays a plus, which `parse_qs` takes for a space."""
    pairs = (pair.partition("=") for pair in query.split("&"))
    return next((value for name, _, value in pairs if name == key), "")


def _resolved(encoded: str) -> str:
    try:
        return base64.urlsafe_b64decode(unquote(encoded) + "=" * (-len(unquote(encoded)) % 4)).decode()
    except ValueError:
        return ""


def _locate(image: str, fs: Any, root: str, source: str) -> tuple[str, str | None, str]:
    """Path and URI of an image; without a URI, and with the reason, where it may not be read."""
    readings = [_below(reading, root) for reading in _readings(image)]
    likeliest = readings[0]
    protocol = likeliest.split("://", 1)[0].lower() if "://" in likeliest else ""
    if protocol in ("http", "https"):
        return likeliest, None, "web addresses are not fetched: copy the images, and set ingest.images_root"
    if protocol and protocol not in STORES:
        return likeliest, None, f"{protocol}:// is not read; allowed are {', '.join(STORES)}, and paths"
    if protocol and (missing := unreadable_scheme(likeliest.split("://", 1)[0])):
        return likeliest, None, missing
    uris = {path: locate(path, fs, root, source) for path in readings if path and not path.startswith("/")}
    allowed = {path: uri for path, uri in uris.items() if uri}
    if not allowed:
        return likeliest, None, "its path leads out of the folder of images (ingest.images_root)"
    if protocol or len(allowed) == 1:
        path, uri = next(iter(allowed.items()))
        return path, uri, ""
    for path, uri in allowed.items():
        if _exists(fs, path, root):
            return path, uri, ""
    return likeliest, None, f"no such file below {root} (ingest.images_root); tried {', '.join(allowed)}"


def _below(path: str, root: str) -> str:
    """An absolute path below the root as a relative one."""
    return path[len(root) :].lstrip("/") if root and path.startswith(root.rstrip("/") + "/") else path


def _exists(fs: Any, path: str, root: str) -> bool:
    try:
        return bool(fs.exists(f"{root}/{path}"))
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False
