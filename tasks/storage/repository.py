"""The model repository: `models/<name>/<version>/`, the layout that Triton, KServe and OpenVINO Model Server load.

A version is published atomically, and version numbers only increase. On a local disk its folder is filled under a
temporary name and renamed into place. On an object store, which has no rename, the manifest is written last, and a
folder without a manifest is no version: an interrupted publish is finished by its retry; without a retry its number
stays unused, since a number is never given to another content.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import DamagedFileError, UsageError, WorkspaceError
from tasks.storage.version_files import MANIFEST
from tasks.workspace import NAME_PATTERN, Workspace, json_bytes, sync_folder

if TYPE_CHECKING:  # serving needs neither records nor pydantic
    from tasks.records import Head, Run

log = logging.getLogger(__name__)

MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"  # beside a model for texts
CONFIG = "config.pbtxt"
VERSION = re.compile("[1-9][0-9]{0,17}")  # digits of ASCII; Python would read those of other scripts as numbers, too
ASIDE = ".publishing-"  # prefix of a folder that is being filled on a local disk
Files = Mapping[str, bytes]  # content by path, relative to the version's folder


def newest_first(workspace: Workspace, name: str) -> Iterator[int]:
    """The published versions of a model, the highest first. What else lies there is ignored, and named once.

    Lazy: on an object store, listing the numbers is cheap, and looking into every version is not (400 versions took
    37 ms and 725 ms).
    """
    numbers = []
    for entry in workspace.names(f"models/{name}"):
        if VERSION.fullmatch(entry):
            numbers.append(int(entry))
        elif entry != CONFIG and not entry.startswith("."):
            _ignore(workspace, f"models/{name}/{entry}", "its name is no version number")
    for number in sorted(numbers, reverse=True):
        if workspace.exists(version_path(name, number, MANIFEST)):
            yield number
        elif workspace.is_local:  # on an object store it may be a version that is being published
            _ignore(workspace, version_path(name, number), f"there is no {MANIFEST} in it")


@cache  # once a process, however often a server looks
def _ignore(workspace: Workspace, path: str, why: str) -> None:
    log.warning("%s is no published version and is ignored: %s", ascii(workspace.display(path))[1:-1], why)


def versions(workspace: Workspace, name: str) -> list[int]:
    """The published versions of a model, ascending."""
    return sorted(newest_first(workspace, name))


def published_models(workspace: Workspace) -> list[str]:
    """The names of the models that have a published version."""
    return [
        name
        for name in workspace.names("models")
        if NAME_PATTERN.fullmatch(name) and next(newest_first(workspace, name), None) is not None
    ]


def champion(workspace: Workspace, name: str, below: int | None = None) -> int | None:
    """The version in service, the highest (or the highest below one that is about to be); None before the first."""
    return next((each for each in newest_first(workspace, name) if below is None or each < below), None)


def next_version(workspace: Workspace, name: str) -> int:
    """One above every published version, and above every number that something else has taken."""
    if not workspace.is_local:  # a folder without a manifest is a publish that another run may finish
        return max(_numbers(workspace, name), default=0) + 1
    number = (champion(workspace, name) or 0) + 1
    while workspace.exists(version_path(name, number)):
        number += 1
    return number


def unfinished(workspace: Workspace, name: str) -> Iterator[str]:
    """Folders of interrupted publishes; on an object store those that a newer version has overtaken."""
    published = versions(workspace, name)
    for entry in workspace.names(f"models/{name}"):
        number = int(entry) if VERSION.fullmatch(entry) else 0
        overtaken = number > 0 and number not in published and number < max(published, default=0)
        if entry.startswith(ASIDE) or overtaken:
            yield f"models/{name}/{entry}"


def _numbers(workspace: Workspace, name: str) -> list[int]:
    return [int(entry) for entry in workspace.names(f"models/{name}") if VERSION.fullmatch(entry)]


def version_in_service(workspace: Workspace, name: str, head: Head) -> int | None:
    """The champion's version, where it is the model of this very head; else None."""
    version = champion(workspace, name)
    if version is None:
        return None
    made = read_manifest(workspace, name, version)["lineage"]
    features = head.features
    same = (features.snapshot.id, features.extractor.head_key, head.digest)
    return version if same == (made.get("snapshot"), made.get("recipe"), made.get("head_digest")) else None


def version_for(workspace: Workspace, name: str, head: Head) -> int:
    """The version of a head's model: the one that it has where it is in service already, else the next one.

    So a run that was interrupted after it published comes to its own version again.
    """
    return version_in_service(workspace, name, head) or next_version(workspace, name)


def was_in_service(run: Run, version: int) -> bool:
    """Whether a version was published by a run before this one, and not by one that was interrupted behind that."""
    made_by = read_manifest(run.workspace, run.name, version).get("run_id")
    return made_by != run.run_id and run.workspace.exists(f"runs/{made_by}/summary.json")


def version_path(name: str, version: int, file: str = "") -> str:
    return f"models/{name}/{version}/{file}".rstrip("/")


def read_manifest(workspace: Workspace, name: str, version: int) -> dict[str, Any]:
    """The manifest of one version. Raises UsageError where there is no such version."""
    try:
        return workspace.read_json(version_path(name, version, MANIFEST))
    except WorkspaceError:
        if version in (known := versions(workspace, name)):
            raise
        raise UsageError(f"{name} has no version {version}; it has {', '.join(map(str, known)) or 'none'}") from None


def read_model(workspace: Workspace, name: str, version: int) -> dict[str, bytes]:
    """A version's model.onnx and, where it has one, its tokenizer.json, checked against its manifest. Raises
    DamagedFileError."""
    promised = read_manifest(workspace, name, version)["files"]
    files = [file for file in (MODEL, TOKENIZER) if file in promised]
    return {file: _read_checked(workspace, version_path(name, version, file), promised[file]) for file in files}


def read_version(workspace: Workspace, name: str, version: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A version's manifest, and every file that it names, checked against it. Raises DamagedFileError."""
    manifest = read_manifest(workspace, name, version)
    promised = manifest["files"]
    files = {file: _read_checked(workspace, version_path(name, version, file), promised[file]) for file in promised}
    return manifest, files


def _read_checked(workspace: Workspace, path: str, promised: str) -> bytes:
    content = workspace.read_bytes(path)
    if hashlib.sha256(content).hexdigest() != promised:
        raise DamagedFileError(
            f"{workspace.display(path)} is damaged: its SHA-256 is not the {promised} of its manifest"
        )
    return content


def write_version(
    workspace: Workspace,
    name: str,
    version: int,
    files: Files,
    manifest: Mapping[str, Any],
    config: str,
    sign: Callable[[Files], Files] = lambda files: {},
) -> None:
    """Publishes one version: all its files and its manifest, or nothing.

    Safe to retry: files with the same content are left as they are, so a version that was begun on an object store is
    finished under its number.

    Args:
        files: their SHA-256 are entered into the manifest's `files`.
        config: the text of Triton's `config.pbtxt` for the model's folder.
        sign: given all files, the manifest among them, returns the files of a signature.

    Raises:
        WorkspaceError: the version exists already (and is another), or can't be written.
    """
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in sorted(files.items())}
    manifest_bytes = json_bytes({**manifest, "name": name, "version": version, "files": digests})
    if workspace.exists(version_path(name, version, MANIFEST)):
        if workspace.read_bytes(version_path(name, version, MANIFEST)) == manifest_bytes:
            return  # a retry after success
        raise WorkspaceError(f"version {version} of {name} can't be published: it exists already, with another content")
    if version not in (newest := next_version(workspace, name) - 1, newest + 1):
        raise WorkspaceError(f"version {version} of {name} can't be published: meanwhile the next one is {newest + 1}")
    signature = sign({**files, MANIFEST: manifest_bytes})
    # Written first: a server that finds a version must find its configuration.
    if not workspace.exists(f"models/{name}/{CONFIG}"):
        workspace.write_bytes(f"models/{name}/{CONFIG}", config.encode())
    folder = f"models/{name}/{ASIDE}{uuid.uuid4().hex}" if workspace.is_local else version_path(name, version)
    # On an object store the model comes first: it claims the number, and a server that reads the bucket directly never
    # finds a version without a model. The manifest comes last: it makes the folder a version.
    for file in sorted(files, key=lambda file: file != MODEL):
        workspace.write_bytes(f"{folder}/{file}", files[file], create=True)
    for file, content in signature.items():  # signatures differ each time, and each of them is valid
        workspace.write_bytes(f"{folder}/{file}", content)
    workspace.write_bytes(f"{folder}/{MANIFEST}", manifest_bytes, create=True)
    if workspace.is_local:
        _rename_into_place(workspace, folder, version_path(name, version))


def _rename_into_place(workspace: Workspace, aside: str, target: str) -> None:
    try:
        os.rename(workspace.path(aside), workspace.path(target))  # noqa: PTH104 - fails on a folder that is not empty
    except OSError as exc:
        workspace.remove(aside)
        raise WorkspaceError(f"can't publish {workspace.display(target)}: {exc.strerror}") from exc
    sync_folder(Path(workspace.path(target)).parent)


def triton_config(name: str, manifest: Mapping[str, Any]) -> str:
    """`config.pbtxt` for ONNX Runtime's backend: dynamic batch, height and width.

    A model for texts takes tokens: its clients run the tokenizer.

    It applies to all versions, so the number of classes is left open: a later version may have more. The outputs are
    those of the version in service, whose manifest is given.
    """
    familiarity = (
        ',\n  { name: "familiarity" data_type: TYPE_FP32 dims: [ -1 ] }' if manifest.get("familiarity") else ""
    )
    extractor = (manifest.get("lineage", {}).get("features") or {}).get("extractor") or {}
    if extractor.get("task") == "text":
        inputs = ",\n".join(
            f'  {{ name: "{each}" data_type: TYPE_INT64 dims: [ -1, -1 ] }}' for each in ("input_ids", "attention_mask")
        )
        taken = f"[\n{inputs}\n]"
    else:
        taken = '[ { name: "image" data_type: TYPE_UINT8 dims: [ -1, -1, -1, 3 ] } ]'
    return f'''name: "{name}"
backend: "onnxruntime"
max_batch_size: 0
input {taken}
output [
  {{ name: "probabilities" data_type: TYPE_FP32 dims: [ -1, -1 ] }},
  {{ name: "label" data_type: TYPE_STRING dims: [ -1 ] }}{familiarity}
]
version_policy: {{ latest {{ num_versions: 1 }} }}
'''
