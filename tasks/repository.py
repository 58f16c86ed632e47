"""The model repository: `models/<name>/<version>/`, the layout that Triton, KServe and OpenVINO Model Server load.

A version is there whole or not at all, and versions only go up. On a local disk its folder is filled aside and
renamed into place; on an object store, which has no rename, its manifest is written last and a folder without one is
no version.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import DamagedFileError, UsageError, WorkspaceError
from tasks.workspace import Workspace, json_bytes, sync_folder

MANIFEST = "manifest.json"
Files = Mapping[str, bytes]  # content by file name


def versions(workspace: Workspace, name: str) -> list[int]:
    """The published versions of a model, ascending."""
    if workspace.is_local:
        whole = workspace.names(f"models/{name}")
    else:
        folders = [file.path.split("/")[2:] for file in workspace.files(f"models/{name}")]
        whole = [folder[0] for folder in folders if folder[1:] == [MANIFEST]]
    return sorted(int(entry) for entry in whole if entry.isdigit())


def champion(workspace: Workspace, name: str) -> int | None:
    """The version in service, the highest; None before the first."""
    return (versions(workspace, name) or [None])[-1]


def next_version(workspace: Workspace, name: str) -> int:
    """One above every number that was ever taken, whole or not."""
    return max((int(entry) for entry in workspace.names(f"models/{name}") if entry.isdigit()), default=0) + 1


def version_path(name: str, version: int, file: str = "") -> str:
    return f"models/{name}/{version}/{file}".rstrip("/")


def read_manifest(workspace: Workspace, name: str, version: int) -> dict[str, Any]:
    """The manifest of one version. Raises UsageError where there is no such version."""
    if version not in (known := versions(workspace, name)):
        raise UsageError(f"{name} has no version {version}; it has {', '.join(map(str, known)) or 'none'}")
    return workspace.read_json(version_path(name, version, MANIFEST))


def read_model(workspace: Workspace, name: str, version: int) -> bytes:
    """The bytes of a version's model.onnx, checked against its manifest. Raises DamagedFileError."""
    return _read_checked(workspace, name, version, "model.onnx")


def read_version(workspace: Workspace, name: str, version: int) -> dict[str, bytes]:
    """Every file that a version's manifest names, checked against it. Raises DamagedFileError."""
    return {file: _read_checked(workspace, name, version, file) for file in _promised(workspace, name, version)}


def _manifest_bytes(workspace: Workspace, name: str, version: int) -> bytes:
    return workspace.read_bytes(version_path(name, version, MANIFEST))


def _promised(workspace: Workspace, name: str, version: int) -> dict[str, str]:
    return read_manifest(workspace, name, version)["files"]


def _read_checked(workspace: Workspace, name: str, version: int, file: str) -> bytes:
    promised = _promised(workspace, name, version)[file]
    content = workspace.read_bytes(version_path(name, version, file))
    if hashlib.sha256(content).hexdigest() != promised:
        path = workspace.display(version_path(name, version, file))
        raise DamagedFileError(f"{path} is damaged: its SHA-256 is not the {promised} of its manifest")
    return content


def write_version(
    workspace: Workspace,
    name: str,
    version: int,
    files: Files,
    manifest: Mapping[str, Any],
    config: str,
    seal: Callable[[Files], Files] = lambda files: {},
) -> None:
    """Publishes one version: all its files and its manifest, or nothing.

    Args:
        files: their SHA-256 go into the manifest's `files`.
        config: the text of Triton's `config.pbtxt` for the model's folder.
        seal: given all files, the manifest among them, what lies beside them (a signature).

    Raises:
        WorkspaceError: the version exists already (and is another), or can't be written.
    """
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in sorted(files.items())}
    whole = {**files, MANIFEST: json_bytes({**manifest, "name": name, "version": version, "files": digests})}
    # The manifest comes last: on an object store it is what makes a version.
    whole = {**seal(whole), **whole}
    if version in versions(workspace, name) and _manifest_bytes(workspace, name, version) == whole[MANIFEST]:
        return  # a retry of what was done
    if version != next_version(workspace, name):
        raise WorkspaceError(f"version {version} of {name} can't be published: the next one is another by now")
    # Before the version: a server that finds a version must find its configuration.
    if not workspace.exists(f"models/{name}/config.pbtxt"):
        workspace.write_bytes(f"models/{name}/config.pbtxt", config.encode())
    folder = f"models/{name}/.publishing-{uuid.uuid4().hex}" if workspace.is_local else version_path(name, version)
    for file, content in whole.items():
        workspace.write_bytes(f"{folder}/{file}", content, create=True)
    if workspace.is_local:
        _rename_into_place(workspace, folder, version_path(name, version))


def _rename_into_place(workspace: Workspace, aside: str, target: str) -> None:
    try:
        os.rename(workspace.path(aside), workspace.path(target))  # noqa: PTH104 - fails on a folder that is not empty
    except OSError as exc:
        workspace.remove(aside)
        raise WorkspaceError(f"can't publish {workspace.display(target)}: {exc.strerror}") from exc
    sync_folder(Path(workspace.path(target)).parent)


def triton_config(name: str) -> str:
    """`config.pbtxt` for ONNX Runtime's backend: dynamic batch, height and width.

    It holds for all versions, so the number of classes is left open: a later one may have more.
    """
    return f'''name: "{name}"
backend: "onnxruntime"
max_batch_size: 0
input [ {{ name: "image" data_type: TYPE_UINT8 dims: [ -1, -1, -1, 3 ] }} ]
output [
  {{ name: "probabilities" data_type: TYPE_FP32 dims: [ -1, -1 ] }},
  {{ name: "label" data_type: TYPE_STRING dims: [ -1 ] }}
]
version_policy: {{ latest {{ num_versions: 1 }} }}
'''
