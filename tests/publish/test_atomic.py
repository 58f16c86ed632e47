"""Publishing and rolling back under the eyes of a reader that polls in a tight loop, on a disk and on S3."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from tasks.errors import WorkspaceError
from tasks.publish.rollback import roll_back
from tasks.storage.repository import (
    MANIFEST,
    next_version,
    read_version,
    triton_config,
    version_path,
    versions,
    write_version,
)
from tasks.workspace import Workspace
from tests.deploy.serving.models import colour_model, manifest
from tests.object_store import object_store
from tests.publish.turns import NAME, Reader, publish_and_roll_back, publish_version

# Of each kind; `python -m tests.benchmarks.publishing` does 200 on both.
TURNS = {"folder": 60, "bucket": 20}
STORES = pytest.mark.parametrize("url", ["folder", "bucket"], indirect=True)


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "folder" else request.getfixturevalue("bucket_url")


@STORES
def test_a_reader_never_sees_half_a_version(url: str, request: pytest.FixtureRequest):
    turns = TURNS[request.node.callspec.params["url"]]
    with Reader(Workspace(url)) as reader:
        publish_and_roll_back(Workspace(url), turns)
    assert reader.faults == []
    assert versions(Workspace(url), NAME) == list(range(1, 2 * turns + 2))
    assert reader.seen == sorted(reader.seen)  # what is in service only goes up
    assert len(set(reader.seen)) > 10


class Death(BaseException):
    """The process ends here: nothing below a handler of Exception runs."""


def dying_at(step: int):
    """Writes, and the rename of a local folder, until number `step`: there the process dies."""
    done = []

    def or_die(act):
        def acted(*arguments, **options):
            if len(done) == step:
                raise Death
            done.append(act)
            return act(*arguments, **options)

        return acted

    patches = mock.patch.multiple(Workspace, write_bytes=or_die(Workspace.write_bytes))
    return patches, mock.patch("os.rename", or_die(os.rename))


# config.pbtxt, model.onnx, notes.txt, the manifest; on a disk then the rename.
@pytest.mark.parametrize(("url", "step"), [("folder", n) for n in range(5)] + [("bucket", n) for n in range(4)],
                         indirect=["url"])  # fmt: skip
def test_a_publish_that_died_half_way_is_seen_by_nobody_and_finished_by_a_retry(url: str, step: int):
    workspace = Workspace(url)
    with Reader(Workspace(url)) as reader:
        writes, rename = dying_at(step)
        with writes, rename, pytest.raises(Death):
            publish_version(workspace, 1)
        time.sleep(0.05)  # for the reader to look
        assert versions(workspace, NAME) == []
        assert reader.seen == []
        publish_version(workspace, 1)
        assert versions(workspace, NAME) == [1]
        read_version(workspace, NAME, 1)  # raises where a file is not what the manifest says
        publish_version(workspace, 1)  # and a retry of what was done finds it done
    assert reader.faults == []


def test_another_run_takes_the_next_number_on_an_object_store(bucket_url: str):
    workspace = Workspace(bucket_url)
    publish_version(workspace, 1)
    writes, rename = dying_at(2)
    with writes, rename, pytest.raises(Death):
        publish_version(workspace, 2)
    assert next_version(workspace, NAME) == 3  # a number that was taken is never another's
    publish_version(workspace, 3)
    assert roll_back(workspace, NAME, to=1)["version"] == 4
    assert versions(workspace, NAME) == [1, 3, 4]


PUBLISHER = """
import sys
from tasks.workspace import Workspace
from tests.publish.turns import publish_version
for version in range(1, 100_000):
    publish_version(Workspace(sys.argv[1]), version)
    print(version, flush=True)
"""


@pytest.mark.parametrize("store", ["folder", "bucket"])
@pytest.mark.parametrize("delay_s", [0.0, 0.008])
def test_a_publisher_that_is_killed_leaves_whole_versions(store: str, delay_s: float, tmp_path: Path):
    from fsspec.config import conf

    with object_store(conf) as server:
        url = str(tmp_path) if store == "folder" else server.workspace
        command = [sys.executable, "-c", PUBLISHER, url]
        publisher = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **server.environ})
        assert publisher.stdout
        written = [int(publisher.stdout.readline()) for _ in range(3)]
        time.sleep(delay_s)  # somewhere in a later version
        os.kill(publisher.pid, signal.SIGKILL)
        written += [int(line) for line in publisher.stdout]
        publisher.wait()
        workspace = Workspace(url)
        found = versions(workspace, NAME)
        assert found[: len(written)] == written
        assert len(found) <= len(written) + 1  # one may be whole and not yet printed
        for version in found:
            read_version(workspace, NAME, version)
        publish_version(workspace, again := len(found) + 1)
        assert versions(workspace, NAME) == [*found, again]


def test_of_two_writers_of_one_version_on_an_object_store_one_finds_out(bucket_url: str):
    workspace, content, other = Workspace(bucket_url), colour_model(), colour_model(turn=1)
    # Both asked for the number before either wrote; the other one is half-way.
    workspace.write_bytes(version_path(NAME, 1, "model.onnx"), content, create=True)
    with pytest.raises(WorkspaceError, match="another writer was faster"):
        write_version(workspace, NAME, 1, {"model.onnx": other}, manifest(other, 1), triton_config(NAME, {}))
    assert workspace.read_bytes(version_path(NAME, 1, "model.onnx")) == content
    write_version(workspace, NAME, 1, {"model.onnx": content}, manifest(content, 1), triton_config(NAME, {}))
    with pytest.raises(WorkspaceError, match="exists already, with another content"):
        write_version(workspace, NAME, 1, {"model.onnx": other}, manifest(other, 1), triton_config(NAME, {}))


def test_the_model_comes_first_and_the_manifest_last_on_an_object_store(bucket_url: str):
    workspace, order = Workspace(bucket_url), []
    write = Workspace.write_bytes

    def noting(self, relative: str, content: bytes, **options) -> None:
        order.append(relative.rsplit("/", 1)[-1])
        write(self, relative, content, **options)

    content = colour_model()
    files = {"another.onnx": content, "model.onnx": content}
    with mock.patch.object(Workspace, "write_bytes", noting):
        evidence = manifest(content, 1)
        write_version(workspace, NAME, 1, files, evidence, triton_config(NAME, {}), lambda files: {"model.sig": b"s"})
    assert order == ["config.pbtxt", "model.onnx", "another.onnx", "model.sig", MANIFEST]
