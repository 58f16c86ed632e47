"""The sensor without Prefect: when to list a source, when new files have settled, and what was announced already."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fsspec

from tasks.errors import SourceError, UsageError, WorkspaceError
from tasks.ingest.entries import LABEL_STUDIO_SUFFIX, MANIFEST_SUFFIXES, remote_signature
from tasks.ingest.listing import Arrivals
from tasks.workspace import Workspace

log = logging.getLogger(__name__)

LOCAL_POLL_S, REMOTE_POLL_S = 1.0, 10.0
# Who corrects labels decides every few seconds: the run comes when they are through, or have a break.
DECIDING_S = 60.0
# Listing takes at most this share of the time: a source of a million files is not listed every second.
BUSY_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class DebounceSettings:
    """How long to wait for more files. Times in seconds."""

    settle_s: float = 5.0  # settle time: how long no file may have changed
    min_new: int = 1  # fewest images that are worth a run
    max_wait_s: float = 3600.0  # after which fewer are, too
    marker: str | None = None  # the file that completes a delivery; replaces the settle time
    poll_s: float = LOCAL_POLL_S


class Debounce:
    """Decides when new files are announced. The clock is an argument, in seconds."""

    def __init__(self, settings: DebounceSettings) -> None:
        self._patience = settings
        self._listing: str | None = None
        self._changed_at = 0.0
        self._reported = False  # the operating system reported a change since the last listing
        self._waiting_since: float | None = None
        self._settle_s = settings.settle_s

    def touch(self, now: float) -> float:
        """Enters a change; returns the earliest time at which the files have settled."""
        self._changed_at, self._reported = now, True
        return now if self._patience.marker else now + self._patience.settle_s

    def ready(self, found: Arrivals, now: float, delivered: bool) -> bool:
        """Whether to announce what was found at `now`; `delivered`: the marker was written since the last time."""
        if found.listing != self._listing and not self._reported:
            self._changed_at = now
        self._listing, self._reported = found.listing, False
        if not found.changes:
            self._waiting_since = None
            return False
        self._waiting_since = now if self._waiting_since is None else self._waiting_since
        self._settle_s = max(self._patience.settle_s, DECIDING_S) if found.corrected else self._patience.settle_s
        settled = delivered if self._patience.marker and found.new else now >= self._settles_at
        waited = now - self._waiting_since >= self._patience.max_wait_s
        return settled and (waited or found.changes >= self._patience.min_new)

    def next_look(self, now: float, cost_s: float) -> float:
        """When to list the source again after a listing that took `cost_s`."""
        soon = now + max(self._patience.poll_s, cost_s / BUSY_SHARE)
        unsettled = self._waiting_since is not None and now < self._settles_at and not self._patience.marker
        return min(soon, self._settles_at) if unsettled else soon

    @property
    def _settles_at(self) -> float:
        return self._changed_at + self._settle_s


@dataclass(frozen=True, slots=True)
class Announced:
    """The last announcement: `watch/<name>.json`, written before the event is sent, and again after.

    So a sensor that is killed between the two sends the same event again, which the server recognises by its id.
    """

    listing: str = ""  # digest; empty where no announcement is open
    event: dict[str, Any] | None = None  # as it is sent to the server
    confirmed: bool = True  # the server has it
    marker: str | None = None  # the marker's signature at that time

    @classmethod
    def read(cls, workspace: Workspace, name: str) -> Announced:
        try:
            return cls(**workspace.read_json(_path(name)))
        except WorkspaceError as exc:
            if isinstance(exc.__cause__, FileNotFoundError):
                return cls()
            raise
        except (ValueError, TypeError):
            log.warning("%s can't be read: its announcement may be repeated", workspace.display(_path(name)))
            return cls()

    def write(self, workspace: Workspace, name: str) -> Announced:
        workspace.write_json(_path(name), asdict(self))
        return self


def pulses(source: str, poll_s: float, stop: threading.Event, ignored: str = "") -> Iterator[bool]:
    """Yields every `poll_s` at least, until `stop`: True when the operating system reported a change in a local folder.

    Changes below the folder `ignored`, the workspace, are none of the source's.

    Network folders and object stores report nothing; there a change is found by listing.
    """
    if os.path.isdir(source):  # noqa: PTH112 - a URL is none
        import watchfiles

        wait_ms = max(1, int(poll_s * 1000))
        inside = tuple(f"{folder}{os.sep}" for folder in {ignored, os.path.realpath(ignored)})
        try:
            for changes in watchfiles.watch(
                source, watch_filter=None, debounce=500, rust_timeout=wait_ms, yield_on_timeout=True, stop_event=stop
            ):
                yield any(not ignored or not path.startswith(inside) for _, path in changes)
            return
        except (OSError, RuntimeError) as exc:  # too many folders for the kernel's bound, or the folder is gone
            log.warning("changes below %s are looked for every %g s: %s", source, poll_s, exc)
    while not stop.wait(poll_s):
        yield False


def absolute_source(source: str) -> str:
    """The source as another process, in another folder, finds it. Raises UsageError where it can't be watched."""
    if source.startswith("tfds:"):
        raise UsageError(f"{source} does not grow, so it can't be watched: use headstart retrain {source}")
    return source if "://" in source else str(Path(source).expanduser().absolute())


def marker_path(source: str, marker: str) -> str:
    """Where the marker lies: an absolute path or a URL as it is, else in the source's folder, or beside its file."""
    if "://" in marker or marker.startswith("/"):
        return marker
    fs, root = fsspec.core.url_to_fs(source)
    is_file = root.lower().endswith((*MANIFEST_SUFFIXES, LABEL_STUDIO_SUFFIX))
    folder = root.rsplit("/", 1)[0] if is_file else root
    return fs.unstrip_protocol(f"{folder.rstrip('/')}/{marker}")


def marker_signature(path: str) -> str | None:
    """A value that changes whenever the marker is written; None where there is no marker."""
    fs, file = fsspec.core.url_to_fs(path)
    fs.invalidate_cache()
    try:
        return remote_signature(fs.info(file))
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise SourceError(f"can't look for the marker {path}: {exc.strerror or exc}") from exc


def _path(name: str) -> str:
    return f"watch/{name}.json"
