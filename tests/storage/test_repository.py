"""The model repository: whole versions only, and only upwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.errors import DamagedFileError, UsageError, WorkspaceError
from tasks.storage.repository import (
    champion,
    next_version,
    published_models,
    read_manifest,
    read_model,
    triton_config,
    versions,
    write_version,
)
from tasks.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path))


def publish(workspace: Workspace, version: int, content: bytes = b"model") -> None:
    write_version(
        workspace,
        "hats",
        version,
        {"model.onnx": content},
        {"metrics": {}},
        triton_config("hats", {"familiarity": {"threshold": 0.5}}),
    )


def test_versions_go_up_and_the_highest_is_in_service(workspace: Workspace):
    assert champion(workspace, "hats") is None
    assert next_version(workspace, "hats") == 1
    for version in (1, 2, 10 - 7):
        publish(workspace, version, b"model %d" % version)
    assert versions(workspace, "hats") == [1, 2, 3]
    assert read_model(workspace, "hats", 3)["model.onnx"] == b"model 3"
    with pytest.raises(WorkspaceError, match="can't be published"):
        publish(workspace, 3)
    with pytest.raises(UsageError, match="has no version 9; it has 1, 2, 3"):
        read_manifest(workspace, "hats", 9)


def test_a_damaged_model_is_not_read(workspace: Workspace, tmp_path: Path):
    publish(workspace, 1)
    (tmp_path / "models/hats/1/model.onnx").write_bytes(b"other")
    with pytest.raises(DamagedFileError, match="its SHA-256 is not the"):
        read_model(workspace, "hats", 1)["model.onnx"]


def test_a_publish_that_dies_leaves_no_version(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    def die(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.rename", die)
        with pytest.raises(KeyboardInterrupt):
            publish(workspace, 1)
    assert versions(workspace, "hats") == []
    publish(workspace, 1)
    assert versions(workspace, "hats") == [1]


def test_triton_parses_the_configuration(workspace: Workspace, tmp_path: Path):
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as protobuf

    model_config_pb2: Any = protobuf  # its classes are made at import, where no type checker sees them
    publish(workspace, 1)
    text = (tmp_path / "models/hats/config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())  # an unknown field is an error
    assert (config.name, config.backend, config.max_batch_size) == ("hats", "onnxruntime", 0)
    assert config.version_policy.latest.num_versions == 1
    [image] = config.input
    assert (image.name, image.data_type, list(image.dims)) == ("image", model_config_pb2.TYPE_UINT8, [-1, -1, -1, 3])
    assert {each.name: each.data_type for each in config.output} == {
        "probabilities": model_config_pb2.TYPE_FP32,
        "label": model_config_pb2.TYPE_STRING,
        "familiarity": model_config_pb2.TYPE_FP32,
    }


@pytest.mark.parametrize("entry", ["99", "٣", "03", "0", "-1", "4.5", "v2", "9" * 30])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_version_is_ignored_and_named_once(
    workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture, entry: str, kind: str
):
    publish(workspace, 1)
    path = tmp_path / "models/hats" / entry
    path.mkdir() if kind == "folder" else path.write_text("not a version")
    for _ in range(3):
        assert versions(workspace, "hats") == [1]
        assert champion(workspace, "hats") == 1
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == 1
    assert "is no published version and is ignored" in named[0]
    assert named[0].isascii()  # digits of another script look like ours
    publish(workspace, next_version(workspace, "hats"))
    assert versions(workspace, "hats") == [1, 2]


def test_the_next_number_passes_over_what_is_in_its_place(workspace: Workspace, tmp_path: Path):
    publish(workspace, 1)
    (tmp_path / "models/hats/2").mkdir()
    assert next_version(workspace, "hats") == 3
    publish(workspace, 3)
    assert versions(workspace, "hats") == [1, 3]


def test_only_models_with_a_version_are_listed(workspace: Workspace, tmp_path: Path):
    publish(workspace, 1)
    (tmp_path / "models/shoes/1").mkdir(parents=True)
    (tmp_path / "models/No Name").mkdir()
    (tmp_path / "models/notes.txt").write_text("")
    assert published_models(workspace) == ["hats"]
