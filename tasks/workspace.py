"""The workspace: one fsspec URL under which everything that headstart keeps lies.

    models/<name>/config.pbtxt   models/<name>/<version>/{model.onnx, manifest.json}
    snapshots/<id>.parquet   snapshots/assignments/<name>.parquet
    runs/<run_id>/{summary.json, decision.json, auto.json, quarantine.jsonl, report.html, model_card.md}
    artifacts/<stage>/<key>/…   (see `tasks.storage.artifacts`)
    features/<key>/<digest>.parquet   inspections/<digest>.parquet   stamps/<digest>.parquet
    images/<first two>/<sha256>   (encoded images of sources without files)
    labelling/<name>/pool.parquet   labelling/<name>/<run_id>/{next.json, next.csv, next.html, batch.parquet}
    explanations/<name>.html   (the page that `explain` wrote last)
    corrections.csv   inbox/<name>/<sha256>.<suffix>   (decisions about labels; what `serve --collect` kept)
    quarantine/<name>.jsonl   quarantine/<name>.decisions.json   listings/<name>.parquet   watch/<name>.json

`models/`, `snapshots/` and what people decided are the truth; the rest can be deleted and is rebuilt. (Without
`labelling/`, images that were handed out are handed out again.) Every write is atomic: on a local disk the bytes go to
a temporary file, are synced, and are renamed into place; an object store's single PUT is atomic.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from tasks.errors import ConfigError, WorkspaceError

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def check_name(name: str) -> str:
    """Returns a model's `name`, or raises ConfigError: names become folders, artefact keys and limits' names."""
    if not NAME_PATTERN.fullmatch(name):
        raise ConfigError(
            f"a model's name can't be {name!r}: use 1 to 63 lower-case letters, digits, '-' and '_', beginning with "
            "a letter or a digit, such as 'clothing'"
        )
    return name


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file: its path relative to the workspace, its size, and the time of its last write."""

    path: str
    size_bytes: int
    modified: datetime  # UTC

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Workspace:
    """Reads and writes under one URL. Paths are relative, with `/` between their parts.

    It is a small frozen value, so it travels between tasks and processes.
    """

    url: str

    def __reduce__(self):
        """Another process opens the URL with its own credentials; none are pickled."""
        return type(self), (self.url,)

    @cached_property
    def _fs_root(self) -> tuple[Any, str]:
        try:
            # Other processes write here too, so listings are not cached.
            fs, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ValueError, ImportError) as exc:
            raise WorkspaceError(f"the workspace {self.url!r} can't be opened: {exc}") from exc
        return fs, root.rstrip("/")

    @property
    def fs(self) -> Any:
        return self._fs_root[0]

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def path(self, relative: str) -> str:
        """The full path in `fs`. Raises WorkspaceError for a path that leads out of the workspace."""
        parts = relative.split("/")
        if relative.startswith("/") or ".." in parts:
            raise WorkspaceError(f"{relative!r} leads out of the workspace {self.url}")
        return f"{self._fs_root[1]}/{relative}" if relative else self._fs_root[1]

    def display(self, relative: str) -> str:
        """The path as a person sees and opens it: a local path, or the URL."""
        return self.path(relative) if self.is_local else self.fs.unstrip_protocol(self.path(relative))

    def relative(self, shown: str) -> str:
        """The reverse of `display`; what lies elsewhere stays as it is."""
        return shown.removeprefix(f"{self.display('').rstrip('/')}/")

    def check_writable(self) -> None:
        """Raises WorkspaceError where nothing can be written, before a run spends time on it."""
        probe = f".probe-{uuid.uuid4().hex}"
        self.write_bytes(probe, b"")
        self.fs.rm_file(self.path(probe))

    def exists(self, relative: str) -> bool:
        return self.fs.exists(self.path(relative))

    def read_bytes(self, relative: str) -> bytes:
        try:
            return self.fs.cat_file(self.path(relative))
        except FileNotFoundError as exc:
            raise WorkspaceError(f"{relative} is not in the workspace {self.url}") from exc

    def read_json(self, relative: str) -> Any:
        return json.loads(self.read_bytes(relative))

    def write_json(self, relative: str, value: Any) -> None:
        self.write_bytes(relative, json_bytes(value))

    def write_bytes(self, relative: str, content: bytes, *, create: bool = False) -> None:
        """Writes a whole file, atomically: a reader sees the old content or the new, never a part.

        With `create` an object store refuses to overwrite a file by another content, so that the second of two writers
        fails. (On a local disk whole folders are renamed into place, which fails likewise.)
        """
        target = self.path(relative)
        try:
            if self.is_local:
                _replace_file(Path(target), content)
            else:
                self.fs.pipe_file(target, content, mode="create" if create else "overwrite")
        except OSError as exc:
            if create and isinstance(exc, FileExistsError):
                if self.read_bytes(relative) == content:
                    return  # written by an earlier attempt, or by this one whose response was lost
                raise WorkspaceError(f"{self.display(relative)} exists already: another writer was faster") from exc
            raise WorkspaceError(
                f"can't write {target}: {exc.strerror or exc}; give a folder that can be written with --workspace"
            ) from exc

    def names(self, relative: str) -> list[str]:
        """The sorted names directly under a folder; empty where the folder does not exist."""
        try:
            entries = self.fs.ls(self.path(relative), detail=False)
        except FileNotFoundError:
            return []
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries)

    def files(self, relative: str) -> list[FileInfo]:
        """Every file below a folder, sorted by path; empty where the folder does not exist."""
        found = self.fs.find(self.path(relative), detail=True)
        return [
            FileInfo(path.removeprefix(f"{self.path('')}/"), int(info["size"]), _modified(info))
            for path, info in sorted(found.items())
            if info["type"] == "file"
        ]

    def remove(self, relative: str) -> None:
        """Removes a file or a whole folder, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm(self.path(relative), recursive=True)

    def local_file(self, relative: str) -> str:
        """A path on this machine with the content: the file itself, or a cached download of it."""
        if self.is_local:
            return self.path(relative)
        cache = user_cache("files")
        info = self.fs.info(self.path(relative))
        signature = re.sub(r"\W", "", str(info.get("ETag") or info.get("LastModified") or info.get("size")))
        target = cache / f"{signature}-{relative.replace('/', '-')}"
        if not target.exists():
            _replace_file(target, self.read_bytes(relative))
        return str(target)


def _modified(info: Mapping[str, Any]) -> datetime:
    """The time of a file's last write, by its file system; now, where that has no such time."""
    times = (info.get(key) for key in ("mtime", "LastModified", "created"))
    time = next((time for time in times if time is not None), datetime.now(UTC))
    return time if isinstance(time, datetime) else datetime.fromtimestamp(time, UTC)


def _replace_file(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def user_cache(name: str) -> Path:
    """A folder of the user's cache on this machine, which no other user can enter; what lies there can be lost.

    It lies in HEADSTART_CACHE, else in `headstart` of XDG_CACHE_HOME or ~/.cache; where there is no home that can be
    written, beside the temporary files.

    Raises:
        OSError: it can't be made anywhere.
    """
    if chosen := os.environ.get("HEADSTART_CACHE"):
        return _own_folder(Path(chosen).expanduser() / name)
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or user_home() / ".cache")
        return _own_folder(cache / "headstart" / name)
    except OSError:
        beside = _own_folder(Path(tempfile.gettempdir()) / f"headstart-{os.getuid()}")
        if beside.stat().st_uid != os.getuid() or beside.stat().st_mode & 0o077:
            raise PermissionError(f"{beside} belongs to someone else; set HEADSTART_CACHE to a folder") from None
        return _own_folder(beside / name)


def user_home() -> Path:
    """The user's home folder. Raises FileNotFoundError where neither HOME nor the system's list of users names one."""
    try:
        return Path.home()
    except RuntimeError as exc:
        raise FileNotFoundError("this user has no home folder") from exc


def _own_folder(folder: Path) -> Path:
    """Makes a folder that only this user can enter, if it is not there. Raises OSError where it can't be written."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} can't be written")
    return folder
