"""New versions are served without a restart and without a failed request; bad ones are not served at all."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from deploy.serving.model_slot import ModelSlot
from tasks.workspace import Workspace
from tests.deploy.serving.models import COLOURS, colour_model, manifest, publish
from tests.deploy.serving.pictures import encoded
from tests.deploy.serving.running import running
from tests.externals import insatiable_model


def about(url: str) -> dict:
    return httpx.get(f"{url}/about").json()


def wait_for_version(url: str, version: int, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while about(url)["version"] != version:
        assert time.monotonic() < deadline, f"version {version} was never served"
        time.sleep(0.02)


def wait_for_refusal(url: str, timeout_s: float = 60) -> list[dict]:
    deadline = time.monotonic() + timeout_s
    while not (refused := about(url)["refused"]):
        assert time.monotonic() < deadline, "nothing was refused"
        time.sleep(0.02)
    return refused


def ask_until(url: str, stop: threading.Event, seen: list[tuple[int, int, str]]) -> None:
    """Asks about a red picture, again and again, and notes (status, version, label) of each answer."""
    with httpx.Client(base_url=url, timeout=60) as client:
        while not stop.is_set():
            response = client.post("/classify", content=encoded("red"))
            answer = response.json()
            seen.append((response.status_code, answer.get("version"), answer.get("label")))


def test_versions_change_under_load_with_no_failed_request(tmp_path):
    publish(tmp_path, 1)
    stop, seen = threading.Event(), []
    with running(tmp_path, poll_s=0.05) as url, ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask_until, url, stop, seen) for _ in range(4)]
        try:
            for version in range(2, 9):
                publish(tmp_path, version)
                wait_for_answer(seen, version)
        finally:
            stop.set()
        for client in clients:
            client.result(60)
    assert {status for status, _, _ in seen} == {200}
    # The test model's answer turns with its version: each answer is of the version that it names.
    assert all(label == COLOURS[(version - 1) % 3] for _, version, label in seen)


def wait_for_answer(seen: list[tuple[int, int, str]], version: int, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not any(answered == version for _, answered, _ in list(seen)):
        assert time.monotonic() < deadline, f"version {version} never answered"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda folder: (folder / "model.onnx").write_bytes(colour_model(turn=2)), "SHA-256"),
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "extra.bin").write_bytes(b"x"), "does not name"),
    ],
)
def test_a_damaged_version_is_refused_by_name_and_the_last_good_one_stays(tmp_path, harm, reason):
    publish(tmp_path, 1)
    with running(tmp_path, poll_s=0.05) as url:
        aside = publish(tmp_path / "aside", 2)
        harm(aside)
        aside.rename(tmp_path / "models" / "colours" / "2")
        (refused,) = wait_for_refusal(url)
        assert refused["version"] == 2
        assert reason in " ".join(refused["reasons"])
        assert httpx.get(f"{url}/v2/health/ready").json() == {"ready": True, "refused": [refused]}
        assert httpx.post(f"{url}/classify", content=encoded()).json()["version"] == 1
        publish(tmp_path, 3)
        wait_for_version(url, 3)
        assert about(url)["refused"] == []


def slot_of(workspace: Path, **options) -> ModelSlot:
    return ModelSlot(Workspace(str(workspace)), "colours", **options)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"decision": {"promote": False, "gates": [{"name": "parity", "passed": True}]}}, "did not promote"),
        ({"decision": {"promote": True, "gates": []}}, "no gate decision"),
        ({"decision": {"promote": True, "gates": [{"name": "min_accuracy", "passed": True}]}}, "no parity gate"),
        ({"name": "animals"}, "the model 'colours'"),
    ],
)
def test_a_version_without_its_evidence_is_not_served(tmp_path, changes, reason):
    publish(tmp_path, 1)
    publish(tmp_path, 2, **changes)
    slot = slot_of(tmp_path)
    slot.refresh()
    assert slot.model.version == 1
    assert reason in " ".join(slot.refusals[2].reasons)


def test_a_graph_that_no_runtime_loads_is_not_served(tmp_path):
    publish(tmp_path, 1)
    publish(tmp_path, 2, content=b"not a graph")
    slot = slot_of(tmp_path)
    assert slot.refresh()
    assert slot.model.version == 1
    assert "not a valid ONNX graph" in " ".join(slot.refusals[2].reasons)


def test_a_refused_version_is_looked_at_once_and_again_when_it_changes(tmp_path):
    outcomes: list[str] = []
    folder = publish(tmp_path, 1, decision={"promote": False, "gates": []})
    slot = slot_of(tmp_path, observe_reload=outcomes.append)
    for _ in range(3):
        assert not slot.refresh()
    assert outcomes == ["refused"]
    fixed = publish(tmp_path / "fixed", 1)
    (fixed / "manifest.json").replace(folder / "manifest.json")
    assert slot.refresh()
    assert outcomes == ["refused", "loaded"]


def test_half_published_versions_and_other_folders_are_passed_over(tmp_path):
    publish(tmp_path, 1)
    models = tmp_path / "models" / "colours"
    (models / ".publishing-1234").mkdir()
    (models / "notes").mkdir()
    (models / "config.pbtxt").write_text("")
    slot = slot_of(tmp_path)
    assert slot.refresh()
    assert not slot.refusals


def test_versions_come_from_an_object_store_too(bucket_url, tmp_path):
    workspace = Workspace(bucket_url)
    slot = ModelSlot(workspace, "colours")
    for version in (1, 2):
        content = colour_model(turn=version - 1)
        workspace.write_bytes(f"models/colours/{version}/model.onnx", content)
        assert not slot.refresh()  # its manifest, which comes last, is not there yet
        workspace.write_json(f"models/colours/{version}/manifest.json", manifest(content, version))
        assert slot.refresh()
        assert slot.model.version == version


def test_a_workspace_that_cannot_be_read_now_changes_nothing(bucket_url):
    outcomes: list[str] = []
    workspace = Workspace(bucket_url)
    content = colour_model()
    workspace.write_bytes("models/colours/1/model.onnx", content)
    workspace.write_json("models/colours/1/manifest.json", manifest(content, 1))
    slot = ModelSlot(workspace, "colours", observe_reload=outcomes.append)
    assert slot.refresh()
    workspace.fs.rm(workspace.path("").partition("/")[0], recursive=True)
    assert not slot.refresh()
    assert slot.model.version == 1
    assert not slot.refusals


def test_a_file_that_is_swapped_after_it_was_verified_is_not_served(tmp_path, monkeypatch):
    """The swap comes when the file was read: whatever is read later is another file."""
    publish(tmp_path, 1)
    read = Workspace.read_bytes

    def read_then_swap(self, relative):
        content = read(self, relative)
        if relative.endswith("model.onnx"):
            (tmp_path / "models/colours/1/model.onnx").write_bytes(colour_model(turn=2))
        return content

    monkeypatch.setattr(Workspace, "read_bytes", read_then_swap)
    slot = slot_of(tmp_path)
    assert slot.refresh()
    red = np.full((1, 4, 4, 3), (250, 5, 5), np.uint8)
    assert slot.infer(red)[0].label == "red"  # of the file that was verified; the other one says blue


def test_an_older_version_put_back_as_a_newer_one_is_not_served(tmp_path):
    publish(tmp_path, 1)
    publish(tmp_path, 2)
    shutil.copytree(tmp_path / "models/colours/1", tmp_path / "models/colours/3")
    slot = slot_of(tmp_path)
    assert slot.refresh()
    assert slot.model.version == 2
    assert "the folder is of version 3, manifest.json of version 1" in " ".join(slot.refusals[3].reasons)


def test_a_graph_that_takes_too_much_memory_is_refused_by_name(tmp_path):
    publish(tmp_path, 1)
    publish(tmp_path, 2, content=insatiable_model())
    slot = slot_of(tmp_path)
    assert slot.refresh()
    assert slot.model.version == 1
    assert "graph: model.onnx can't predict:" in " ".join(slot.refusals[2].reasons)
