"""The workspace: whole writes, confined paths, plain errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import ConfigError, WorkspaceError
from tasks.workspace import Workspace, check_name


def test_a_write_replaces_the_whole_file_and_leaves_nothing_aside(tmp_path: Path):
    workspace = Workspace(str(tmp_path))
    workspace.write_json("runs/r1/summary.json", {"a": 1})
    workspace.write_json("runs/r1/summary.json", {"b": "ü"})
    assert workspace.read_json("runs/r1/summary.json") == {"b": "ü"}
    assert workspace.names("runs/r1") == ["summary.json"]


def test_a_write_that_fails_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workspace = Workspace(str(tmp_path))
    workspace.write_bytes("a/file", b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(WorkspaceError, match="No space left"):
        workspace.write_bytes("a/file", b"new")
    assert workspace.read_bytes("a/file") == b"old"
    assert workspace.names("a") == ["file"]


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "/etc/passwd"])
def test_no_path_leads_out(tmp_path: Path, path: str):
    with pytest.raises(WorkspaceError, match="leads out of the workspace"):
        Workspace(str(tmp_path / "w")).write_bytes(path, b"")


def test_a_workspace_that_is_a_file_is_refused_plainly(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("I am no folder")
    with pytest.raises(WorkspaceError, match="give a folder that can be written with --workspace"):
        Workspace(str(file)).check_writable()


def test_an_unknown_scheme_is_refused_plainly():
    with pytest.raises(WorkspaceError, match="can't be opened"):
        Workspace("nowhere://bucket").check_writable()


@pytest.mark.parametrize("name", ["", "Clothing", "a/b", "..", "-a", "x" * 64, "ü"])
def test_a_bad_name_is_refused(name: str):
    with pytest.raises(ConfigError, match="a model's name can't be"):
        check_name(name)
