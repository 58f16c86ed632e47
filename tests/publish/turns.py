"""Publishing and rolling back in turn, under the eyes of a reader that polls in a tight loop."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tasks.publish.rollback import roll_back
from tasks.storage.repository import champion, read_manifest, triton_config, version_path, write_version
from tasks.workspace import Workspace
from tests.deploy.serving.models import colour_model, manifest

NAME = "colours"


class Reader(threading.Thread):
    """Reads the highest version, again and again, and every file that it promises, until the `with` block ends."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(daemon=True)
        self.workspace, self.done = workspace, threading.Event()
        self.faults: list[str] = []
        self.seen: list[int] = []  # a version for each look

    def __enter__(self) -> Reader:
        self.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.done.set()
        self.join(30)

    def run(self) -> None:
        while not self.done.is_set():
            try:
                self._look()
            except Exception as exc:  # noqa: BLE001 - whatever a reader trips over is a fault
                self.faults.append(f"{type(exc).__name__}: {exc}")

    def _look(self) -> None:
        version = champion(self.workspace, NAME)
        if version is None:
            return
        promised: dict[str, Any] = read_manifest(self.workspace, NAME, version)
        assert promised["version"] == version
        for file, digest in promised["files"].items():
            content = self.workspace.read_bytes(version_path(NAME, version, file))
            assert hashlib.sha256(content).hexdigest() == digest, f"{file} of version {version} is not whole"
        self.seen.append(version)


@dataclass
class Took:
    """Seconds of each."""

    publishing: list[float] = field(default_factory=list)
    rolling_back: list[float] = field(default_factory=list)


def publish_version(workspace: Workspace, version: int) -> None:
    """A version of a small model and a file beside it; its content tells it from every other version."""
    content = colour_model(turn=version)
    files = {"notes.txt": b"%d" % version * 20_000, "model.onnx": content}
    write_version(workspace, NAME, version, files, manifest(content, version), triton_config(NAME, {}))


def publish_and_roll_back(workspace: Workspace, turns: int) -> Took:
    """Version 1; then, `turns` times, a new version, and a rollback to the first."""
    took = Took()
    publish_version(workspace, 1)
    for turn in range(turns):
        started = time.perf_counter()
        publish_version(workspace, 2 * turn + 2)
        published = time.perf_counter()
        roll_back(workspace, NAME, to=1)
        took.publishing.append(published - started)
        took.rolling_back.append(time.perf_counter() - published)
    return took
