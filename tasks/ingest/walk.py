"""Walks a source's folder: its files, and whatever else is listed there, each with the reason why it is no file of it.

Folders are entered once, however many links lead to them; links out of the root are followed on request only, and
headstart's own workspace never is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from tasks.ingest.entries import etag_of, remote_signature, suffix_of, uri_of
from tasks.records import Run

# Left behind by operating systems, archive tools, network storage and volumes, like hidden files.
SYSTEM_NAMES = frozenset(
    {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin"}
    | {"lost+found", "system volume information", "recycler", "@__thumb"}
)
MAX_DEPTH = 64  # folders below the source; file systems allow paths of 4,096 bytes
SYSTEM_FILE = "a system file or a hidden one"
WORKSPACE = "headstart's own workspace"
ESCAPES = "it is a link that leads out of the source (ingest.follow_links = true follows it)"
LISTED_ALREADY = "it is a link to a folder that is listed already"


@dataclass(frozen=True, slots=True)
class Found:
    """A file below the root, or, where it has a `fault`, whatever can't be one.

    `folder`: it is a folder, or may be one. `ours`: False where nobody would miss it. `remote`: fields of `Entry`.
    """

    parts: tuple[str, ...]
    uri: str = ""
    fault: str | None = None
    folder: bool = False
    ours: bool = True
    remote: Mapping[str, Any] = field(default_factory=dict)


def walk(run: Run, fs: Any, root: str) -> Iterator[Found]:
    """Everything below `root`, sorted folder by folder.

    Raises:
        OSError: the root itself can't be listed.
    """
    if isinstance(fs, LocalFileSystem):
        yield from _LocalWalk(run, root).everything()
    else:
        yield from _walk_remote(run, fs, root)


def is_system_name(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


class _LocalWalk:
    """Real folders first, then links: so what a link leads to does not depend on the order of a folder's entries."""

    def __init__(self, run: Run, root: str) -> None:
        self._root = os.path.realpath(root)
        self._workspace = os.path.realpath(run.workspace.path("")) if run.workspace.is_local else None
        self._follow = run.config.ingest.follow_links
        self._entered = {self._root}
        self._waiting: list[tuple[str, str, tuple[str, ...]]] = [(root, self._root, ())]  # path, real path, parts
        self._links: list[tuple[str, tuple[str, ...]]] = []

    def everything(self) -> Iterator[Found]:
        while self._waiting or self._links:
            if self._waiting:
                yield from self._list(*self._waiting.pop())
                continue
            path, parts = self._links.pop(0)
            try:
                yield from self._link(path, parts)
            except (OSError, ValueError) as exc:
                yield Found(
                    parts, fault=f"it is a link that leads nowhere: {_why(exc)}", folder=not suffix_of(parts[-1])
                )

    def _list(self, folder: str, real: str, parts: tuple[str, ...]) -> Iterator[Found]:
        try:
            with os.scandir(folder) as listed:
                children = sorted(listed, key=lambda child: child.name)
        except OSError as exc:
            if not parts:
                raise
            yield Found(parts, fault=f"the folder can't be read: {_why(exc)}", folder=True)
            return
        for child in children:
            here = (*parts, child.name)
            if is_system_name(child.name):
                yield Found(here, fault=SYSTEM_FILE, ours=False)
            elif child.is_symlink():
                self._links.append((child.path, here))
            elif child.is_dir(follow_symlinks=False):
                if fault := self._enter(child.path, f"{real}/{child.name}", here):
                    yield fault
            elif child.is_file(follow_symlinks=False):
                yield Found(here, child.path)
            else:
                yield Found(here, fault="it is a device or a pipe, not a file")

    def _link(self, path: str, parts: tuple[str, ...]) -> Iterator[Found]:
        target, status = os.path.realpath(path), os.stat(path)  # noqa: PTH116 - follows the link
        outside = not f"{target}/".startswith(f"{self._root}/") and not self._follow
        if stat.S_ISDIR(status.st_mode):
            fault = Found(parts, fault=ESCAPES, folder=True) if outside else self._enter(path, target, parts)
            if fault:
                yield fault
        elif not stat.S_ISREG(status.st_mode):
            yield Found(parts, fault="it is a device or a pipe, not a file")
        else:
            yield Found(parts, path, fault=ESCAPES if outside else None)

    def _enter(self, path: str, real: str, parts: tuple[str, ...]) -> Found | None:
        """Enters a folder, or says why not."""
        if real == self._workspace:
            return Found(parts, fault=WORKSPACE, ours=False)
        if real in self._entered:
            return Found(parts, fault=LISTED_ALREADY, folder=True)
        if len(parts) > MAX_DEPTH:
            return Found(parts, fault=f"it lies more than {MAX_DEPTH} folders deep", folder=True)
        self._entered.add(real)
        self._waiting.append((path, real, parts))
        return None


def _walk_remote(run: Run, fs: Any, root: str) -> Iterator[Found]:
    same = type(fs) is type(run.workspace.fs)
    workspace = run.workspace.path("") if same else None
    if workspace and f"{root}/".startswith(f"{workspace}/"):
        workspace = None  # a source that a user put into the workspace is meant
    for path, info in fs.find(root, detail=True).items():
        parts = PurePosixPath(path.removeprefix(root).lstrip("/")).parts
        if not parts or path.endswith("/"):  # such a key is a folder's
            continue
        if any(map(is_system_name, parts)):
            yield Found(parts, fault=SYSTEM_FILE, ours=False)
        elif workspace and path.startswith(f"{workspace}/"):
            yield Found(parts, fault=WORKSPACE, ours=False)
        elif "::" in path or "?versionId=" in path:
            yield Found(parts, fault="its name holds '::' or '?versionId=', which fsspec's URLs can't: rename it")
        else:
            remote = {"size_bytes": info.get("size"), "etag": etag_of(info), "signature": remote_signature(info)}
            yield Found(parts, uri_of(fs, path, run.source), remote=remote)


def _why(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
