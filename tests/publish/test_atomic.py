"""Publishing and rolling back under the eyes of a reader that polls in a tight loop, on a disk and on S3."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest

from tasks.publish.rollback import roll_back
from tasks.repository import champion, read_manifest, triton_config, version_path, versions, write_version
from tasks.workspace import Workspace
from tests.serve.models import colour_model, manifest

NAME = "colours"
TURNS = {"folder": 200, "bucket": 12}  # of each kind; on S3 each takes many requests


class Reader(threading.Thread):
    """Reads the highest version, again and again, and every file that it promises."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(daemon=True)
        self.workspace, self.done = workspace, threading.Event()
        self.faults: list[str] = []
        self.seen: list[int] = []

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


@pytest.mark.parametrize("store", ["folder", "bucket"])
def test_a_reader_never_sees_half_a_version(store: str, request: pytest.FixtureRequest, tmp_path: Path):
    url = str(tmp_path) if store == "folder" else request.getfixturevalue("bucket_url")
    workspace, reader = Workspace(url), Reader(Workspace(url))
    reader.start()
    for turn in range(TURNS[store]):
        version, content = 2 * turn + 1, colour_model(turn=turn)
        files = {"model.onnx": content, "notes.txt": b"%d" % version * 20_000}
        write_version(workspace, NAME, version, files, manifest(content, version), triton_config(NAME))
        roll_back(workspace, NAME, to=1 if version > 1 else None) if version > 1 else publish_again(workspace, content)
    reader.done.set()
    reader.join(30)
    assert reader.faults == []
    assert versions(workspace, NAME) == list(range(1, 2 * TURNS[store] + 1))
    assert reader.seen == sorted(reader.seen)  # what is in service only goes up
    assert len(set(reader.seen)) > 10


def publish_again(workspace: Workspace, content: bytes) -> None:
    """The second version: at the first there is nothing to go back to."""
    write_version(workspace, NAME, 2, {"model.onnx": content}, manifest(content, 2), triton_config(NAME))


def test_of_two_writers_of_one_version_on_an_object_store_one_finds_out(bucket_url: str, monkeypatch):
    from tasks import repository
    from tasks.errors import WorkspaceError

    workspace, content = Workspace(bucket_url), colour_model()
    monkeypatch.setattr(repository, "next_version", lambda *_: 1)  # both asked before either wrote
    write_version(workspace, NAME, 1, {"model.onnx": content}, manifest(content, 1), triton_config(NAME))
    other = colour_model(turn=1)
    with pytest.raises(WorkspaceError, match="another writer was faster"):
        write_version(workspace, NAME, 1, {"model.onnx": other}, manifest(other, 1), triton_config(NAME))
    assert workspace.read_bytes(version_path(NAME, 1, "model.onnx")) == content
