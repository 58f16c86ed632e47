"""Label Studio's JSON export as a source: image classification by choices, one label for each image.

Format: https://labelstud.io/guide/export#Label-Studio-JSON-format-of-annotated-tasks. A task is labelled once every
annotation of it that was not cancelled gives one same choice; where some are marked as ground truth, those alone count.
Tasks that nobody has labelled yet are passed over: the next export may have them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, urlsplit

import fsspec

from tasks.errors import SourceError
from tasks.ingest.entries import IMAGE_SUFFIXES, SPLIT_FOLDERS, Entry, Listing, Rejected, clean_label
from tasks.ingest.manifest import locate
from tasks.records import SPLITS

# Label Studio serves its own files below this, and those of local storage as /data/local-files/?d=PATH.
SERVED, LOCAL_FILES = "/data/", "/data/local-files/"
STORES = ("s3", "gs", "gcs", "az", "abfs", "abfss")
EXPORT_AS = "export the project as JSON (not JSON-MIN), or give a .csv of path,label"


def list_label_studio(source: str, fs: Any, path: str, images_root: str = "") -> Listing:
    """The labelled images of the export at `path` of `fs`.

    Paths of images start at `images_root` (a folder or an fsspec URL; by default the export's own folder) and can't
    leave it: those of uploads (`/data/upload/…`), of local storage (`/data/local-files/?d=…`) and plain relative ones.
    Addresses of object stores are read where they are; web addresses are never fetched.

    Raises:
        SourceError: the file is no such export, names several classifications, or has no labelled image.
    """
    tasks = _read(source, fs, path)
    _check_one_choice(source, tasks)
    root_fs, root = fs, str(PurePosixPath(path).parent)
    if images_root:
        root_fs, root = fsspec.core.url_to_fs(
            str(Path(images_root).expanduser()) if "://" not in images_root else images_root
        )
    entries: list[Entry] = []
    rejected: list[Rejected] = []
    for task in tasks:
        judged = _judge(task, root_fs, root, images_root or source)
        if judged is not None:
            (entries if isinstance(judged, Entry) else rejected).append(judged)  # type: ignore[arg-type]
    if not entries:
        found = f"; the first that can't be used: {rejected[0].path}: {rejected[0].reason}" if rejected else ""
        raise SourceError(f"the Label Studio export {source!r} has no labelled image among {len(tasks)} tasks{found}")
    unlabelled = len(tasks) - len(entries) - len(rejected)
    return Listing(tuple(sorted(entries, key=lambda entry: entry.path)), tuple(rejected), unlabelled)


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
            f"the Label Studio export {source!r} holds several classifications, {', '.join(sorted(names))}: which of "
            "them is the label can't be told; export a project that has one, or give a .csv of path,label"
        )


def _choices(annotation: Any) -> Iterator[tuple[Any, list[Any]]]:
    """The name of each classification in an annotation, and what was chosen."""
    for result in annotation.get("result") or [] if isinstance(annotation, dict) else []:
        value = result.get("value") if isinstance(result, dict) else None
        if isinstance(value, dict) and isinstance(value.get("choices"), list):
            yield result.get("from_name"), value["choices"]


def _judge(task: Mapping[str, Any], fs: Any, root: str, source: str) -> Entry | Rejected | None:
    """What to make of a task; None where nobody has labelled it yet."""
    answers = _answers(task["annotations"])
    if not answers:
        return None
    shown = f"task {task.get('id', '(no id)')}"
    image = _image(task["data"])
    if image is None:
        return Rejected(shown, "it can't be told which of its data is the image: name it 'image'")
    if several := next((answer for answer in answers if len(answer) > 1), None):
        return Rejected(image, f"{shown} gives it {len(several)} labels, {', '.join(several)}: one is allowed")
    if len(answers) > 1:
        votes = ", ".join(f"{answer[0]!r} ({count})" for answer, count in sorted(answers.items()))
        return Rejected(image, f"the annotators of {shown} disagree: {votes}; cancel the wrong annotation")
    [label] = next(iter(answers))
    if not label:
        return Rejected(image, f"{shown} gives it a blank label")
    given = str(task["data"].get("split") or "").strip()
    split = SPLIT_FOLDERS.get(given.lower())
    if given and split is None:
        return Rejected(image, f"its split is {given!r}; allowed are {', '.join(SPLITS)}, or none", label)
    return _place(image, label, split, fs, root, source)


def _answers(annotations: Sequence[Any]) -> Counter[tuple[str, ...]]:
    """How often each answer was given, of the annotations that count."""
    valid = [each for each in annotations if isinstance(each, dict) and not each.get("was_cancelled")]
    counted = [each for each in valid if each.get("ground_truth")] or valid
    answers = (tuple(clean_label(choice) for _, chosen in _choices(each) for choice in chosen) for each in counted)
    return Counter(answer for answer in answers if answer)


def _image(data: Mapping[str, Any]) -> str | None:
    """The address of a task's image: its `image`, or the only value that looks like one."""
    if isinstance(data.get("image"), str):
        return data["image"].strip() or None
    texts = [value for value in data.values() if isinstance(value, str)]
    found = [text for text in texts if PurePosixPath(_relative(text)).suffix.lower() in IMAGE_SUFFIXES]
    return found[0] if len(found) == 1 else None


def _relative(address: str) -> str:
    """The path below the root that an address of Label Studio's stands for; others as they are."""
    if address.startswith(LOCAL_FILES):
        return next(iter(parse_qs(urlsplit(address).query).get("d", [])), "")
    return address.removeprefix(SERVED)


def _place(image: str, label: str, split: str | None, fs: Any, root: str, source: str) -> Entry | Rejected:
    protocol = image.split("://", 1)[0].lower() if "://" in image else ""
    if protocol in ("http", "https"):
        return Rejected(image, "web addresses are not fetched: copy the images, and set ingest.images_root", label)
    if protocol and protocol not in STORES:
        return Rejected(image, f"{protocol}:// is not read; allowed are {', '.join(STORES)}, and paths", label)
    path = _relative(image)
    uri = locate(path, fs, root, source) if path and not path.startswith("/") else None
    if uri is None:
        return Rejected(image, "its path leads out of the folder of images (ingest.images_root)", label)
    return Entry(path, uri, label, split)
