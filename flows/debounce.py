"""The sensor's own sense: when to look at a source, when what arrived has settled, and what was announced already.

Nothing here knows of Prefect; `flows.watch` announces.
"""

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
from tasks.ingest.entries import LABEL_STUDIO_SUFFIX, MANIFEST_SUFFIXES, remote_mark
from tasks.ingest.listing import Arrivals
from tasks.workspace import Workspace

log = logging.getLogger(__name__)

LOCAL_POLL_S, REMOTE_POLL_S = 1.0, 10.0
# Looking takes at most this share of the time: a source of a million files is not listed every second.
BUSY_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for more. Times in seconds."""

    quiet_s: float = 5.0  # so long no file may have changed
    min_new: int = 1  # images that are worth a run
    max_wait_s: float = 3600.0  # after that, fewer are
    marker: str | None = None  # the file that says that a delivery is whole; then no quiet is waited for
    poll_s: float = LOCAL_POLL_S


class Debounce:
    """Says when what arrived is to be announced. It knows the time only by what it is told, in seconds."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._listing: str | None = None
        self._changed_at = 0.0
        self._told = False  # the operating system told of a change since the last look
        self._waiting_since: float | None = None

    def touch(self, now: float) -> float:
        """Something changed: nothing is settled before the time that is returned."""
        self._changed_at, self._told = now, True
        return now if self._patience.marker else now + self._patience.quiet_s

    def ready(self, found: Arrivals, now: float, delivered: bool) -> bool:
        """Whether to announce what was found at `now`; `delivered`: the marker was written since the last time."""
        if found.listing != self._listing and not self._told:
            self._changed_at = now
        self._listing, self._told = found.listing, False
        if not found.new:
            self._waiting_since = None
            return False
        self._waiting_since = now if self._waiting_since is None else self._waiting_since
        settled = delivered if self._patience.marker else now >= self._settles_at
        waited = now - self._waiting_since >= self._patience.max_wait_s
        return settled and (waited or found.new >= self._patience.min_new)

    def next_look(self, now: float, cost_s: float) -> float:
        """When to look again after a look that took `cost_s`."""
        soon = now + max(self._patience.poll_s, cost_s / BUSY_SHARE)
        unsettled = self._waiting_since is not None and now < self._settles_at and not self._patience.marker
        return min(soon, self._settles_at) if unsettled else soon

    @property
    def _settles_at(self) -> float:
        return self._changed_at + self._patience.quiet_s


@dataclass(frozen=True, slots=True)
class Announced:
    """What was announced last: `watch/<name>.json`. It is written before the event is sent, and again after.

    So a sensor that dies between the two sends the very same event again, which the server knows by its id.
    """

    listing: str = ""  # digest; empty where nothing is announced that has not been answered
    event: dict[str, Any] | None = None  # as it goes to the server
    confirmed: bool = True  # the server has it
    marker: str | None = None  # the marker's stamp at that time

    @classmethod
    def read(cls, workspace: Workspace, name: str) -> Announced:
        try:
            return cls(**workspace.read_json(_path(name)))
        except WorkspaceError as exc:
            if isinstance(exc.__cause__, FileNotFoundError):
                return cls()
            raise
        except (ValueError, TypeError):
            log.warning("%s can't be read: what it held may be announced again", workspace.display(_path(name)))
            return cls()

    def write(self, workspace: Workspace, name: str) -> Announced:
        workspace.write_json(_path(name), asdict(self))
        return self


def pulses(source: str, poll_s: float, stop: threading.Event) -> Iterator[bool]:
    """Yields every `poll_s` at least, until `stop`: True when the operating system told of a change in a local folder.

    Network folders and object stores tell nothing; there a change shows when it is looked for.
    """
    if os.path.isdir(source):  # noqa: PTH112 - a URL is none
        import watchfiles

        wait_ms = max(1, int(poll_s * 1000))
        try:
            for changes in watchfiles.watch(
                source, watch_filter=None, debounce=500, rust_timeout=wait_ms, yield_on_timeout=True, stop_event=stop
            ):
                yield bool(changes)
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
    """Where the marker lies: as it is where absolute or a URL, else in the source's folder, or beside its file."""
    if "://" in marker or marker.startswith("/"):
        return marker
    fs, root = fsspec.core.url_to_fs(source)
    is_file = root.lower().endswith((*MANIFEST_SUFFIXES, LABEL_STUDIO_SUFFIX))
    folder = root.rsplit("/", 1)[0] if is_file else root
    return fs.unstrip_protocol(f"{folder.rstrip('/')}/{marker}")


def marker_signature(path: str) -> str | None:
    """What changes whenever the marker is written; None where there is none."""
    fs, file = fsspec.core.url_to_fs(path)
    fs.invalidate_cache()
    try:
        return remote_mark(fs.info(file))
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise SourceError(f"can't look for the marker {path}: {exc.strerror or exc}") from exc


def _path(name: str) -> str:
    return f"watch/{name}.json"
