"""Lists class folders, on a local disk or behind an fsspec URL. A file's folder gives its label and split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tasks.errors import SourceError
from tasks.ingest.entries import (
    ALLOWED,
    NO_LABEL,
    NOT_TEXT,
    SUFFIXES,
    TEXT_SUFFIXES,
    Entry,
    Ignored,
    Listing,
    Rejected,
    clean_label,
    is_text,
    make_listing,
    printable,
    split_of,
    suffix_of,
)
from tasks.ingest.walk import LISTED_ALREADY, Found, walk
from tasks.records import Run


def list_folders(run: Run, fs: Any, root: str) -> Listing:
    """Lists the images or texts below class folders.

    Raises:
        SourceError: the folder can't be listed, is empty, has no class folder with a file in it, or has one that can't
            be used: a link, or a folder that may not be read.
    """
    source = run.source
    if type(fs) is type(run.workspace.fs) and run.workspace.path("") == root.rstrip("/"):
        raise SourceError(f"the workspace can't be the source itself, {root}: give another folder with --workspace")
    try:
        found = sorted(walk(run, fs, root), key=lambda item: item.parts)
    except OSError as exc:
        raise SourceError(f"the source {source!r} can't be listed: {exc.strerror or exc}") from exc
    usable = [item for item in found if item.ours]
    if not usable:
        raise SourceError(f"the source {source!r} is empty; {ALLOWED}")
    splits = {} if run.config.ingest.layout == "classes" else _split_folders(source, usable, SUFFIXES[run.config.task])
    _refuse_lost_classes(source, usable, depth=2 if splits else 1)
    suffixes = SUFFIXES[run.config.task]
    listing = make_listing(_entry(item, splits, suffixes) for item in found)
    if not listing.entries:
        shown = _some([item for item in usable if not item.folder] or usable)
        raise SourceError(f"the source {source!r} has no class folder with a file in it; found {shown}; {ALLOWED}")
    return listing


def _split_folders(source: str, found: Sequence[Found], suffixes: frozenset[str]) -> Mapping[str, str]:
    """The split of each top folder; empty where the top folders are classes.

    `train` may be a class (of vehicles, for example), so it is a split only where all top folders are splits.
    """
    folders = {item.parts[0] for item in found if item.folder or len(item.parts) > 1}
    named = {folder: split for folder in folders if (split := split_of(folder))}
    if "train" in named.values():
        if len(named) == len(folders):
            return named
        if len(named) > 1:
            raise SourceError(
                f"the source {source!r} holds the splits {_names(named)} beside {_names(folders - set(named))}: its "
                f"top folders must be either all splits or all classes, so move one kind away; {ALLOWED}"
            )
    _refuse_unknown_splits(source, found, suffixes)
    return {}


def _refuse_unknown_splits(source: str, found: Sequence[Found], suffixes: frozenset[str]) -> None:
    """Refuses top folders that look like splits of unusual names: they hold no items, and the same folders each."""
    below: dict[str, set[str]] = defaultdict(set)
    for item in found:
        if len(item.parts) == 2 and not item.folder and suffix_of(item.parts[1]) in ("", *suffixes):
            return
        if len(item.parts) > 2:
            below[item.parts[0]].add(item.parts[1])
    shared = set.intersection(*below.values()) if len(below) > 1 else set()
    if len(shared) > 1:
        items = "texts" if suffixes is TEXT_SUFFIXES else "images"
        raise SourceError(
            f"the source {source!r} has the folders {_names(below)}, which hold no {items}, but {_names(shared)} "
            "each: are they splits? Splits are called train, validation and test. If they are the classes, set "
            "ingest.layout = classes"
        )


def _refuse_lost_classes(source: str, found: Sequence[Found], depth: int) -> None:
    """Refuses a source where a class or a split would be missing without a word: its folder can't be entered."""
    lost = [item for item in found if item.folder and len(item.parts) <= depth]
    if lost:
        shown = "; ".join(f"{printable('/'.join(item.parts))}: {item.fault}" for item in lost[:3])
        more = f"; and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise SourceError(
            f"the source {source!r} has folders of classes or splits that can't be used: {shown}{more}; mend or remove "
            "them, so that no class is missing"
        )


def _entry(item: Found, splits: Mapping[str, str], suffixes: frozenset[str]) -> Entry | Rejected | Ignored:
    """What was found as an entry, or why it can't be one."""
    path, name = "/".join(item.parts), item.parts[-1]
    depth = 1 if splits else 0  # of the class folder
    label = clean_label(item.parts[depth]) if len(item.parts) > depth + 1 else None
    if item.fault and (label is None or not item.ours or item.fault == LISTED_ALREADY):
        return Ignored(printable(path), item.fault)
    if item.fault:
        return Rejected(printable(path), item.fault, printable(label or ""))
    # Without a suffix a name says nothing: the content decides.
    if (suffix := suffix_of(name)) and suffix not in suffixes:
        kind = "a text" if suffixes is TEXT_SUFFIXES else "an image"
        return Ignored(printable(path), f"its name is not {kind}'s (*{printable(suffix)})")
    if label is None:
        return Ignored(printable(path), f"{NO_LABEL}: it is in no class folder")
    if not is_text(path):
        return Rejected(printable(path), NOT_TEXT, printable(label))
    return Entry(path, item.uri, label, splits.get(item.parts[0]), **item.remote)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"{name}/" for name in sorted(names))


def _some(files: Sequence[Found]) -> str:
    shown = [printable("/".join(file.parts)) for file in files[:3]]
    return ", ".join(shown) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
