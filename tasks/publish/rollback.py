"""Rolling back: publishes the content of an earlier version as a new version, since versions only increase."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tasks.errors import DamagedFileError, UsageError
from tasks.publish.signing import own_public_key, sign_files
from tasks.publish.verify import verify_version
from tasks.storage.repository import (
    champion,
    newest_first,
    next_version,
    read_manifest,
    read_version,
    triton_config,
    version_path,
    write_version,
)
from tasks.storage.version_files import SIGNATURE
from tasks.workspace import Workspace


def roll_back(workspace: Workspace, name: str, to: int | None = None, now: datetime | None = None) -> dict[str, Any]:
    """Publishes version `to` again; by default the one before the content that is in service.

    The graphs are equal to the bit; only the `version` in their metadata is new.

    Returns:
        `{"name", "version", "restored", "replaced", "model"}`.

    Raises:
        UsageError: there is no such version, or none before, or it is in service already.
        DamagedFileError: a file of it is not what its manifest says, or its signature is not what it was.
        ConfigError: a signing key is configured, and can't be used.
    """
    current = champion(workspace, name)
    if current is None:
        raise UsageError(f"{name} has no published version in {workspace.url}")
    in_service = read_manifest(workspace, name, current).get("restored", current)
    target = to if to is not None else _before(workspace, name, in_service)
    if target in (current, in_service):
        raise UsageError(f"version {target} of {name} is what is in service already (as version {current})")
    manifest, files = _restorable(workspace, name, target, current)
    version = next_version(workspace, name)
    files = {
        file: _with_version(content, version) if file.endswith(".onnx") else content for file, content in files.items()
    }
    manifest |= {
        "restored": manifest.get("restored", target),
        "replaced": current,
        "published_at": (now or datetime.now(UTC)).isoformat(timespec="seconds"),
    }
    write_version(workspace, name, version, files, manifest, triton_config(name, manifest), sign_files)
    return {
        "name": name,
        "version": version,
        "restored": target,
        "replaced": current,
        "model": workspace.display(version_path(name, version, "model.onnx")),
    }


def _restorable(workspace: Workspace, name: str, target: int, current: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the files of a version, which are about to be signed again where a key is configured.

    So what was tampered with is not signed: a signed version has to verify, and one without a signature is not restored
    over one that has one.
    """
    with own_public_key() as key:
        signed = {version: workspace.exists(version_path(name, version, SIGNATURE)) for version in (target, current)}
        if key is None or not any(signed.values()):
            return read_version(workspace, name, target)
        found = verify_version(workspace, name, target, public_key=key)
    if not found.ok:
        raise DamagedFileError(
            f"version {target} of {name} can't be restored and signed: {'; '.join(found.problems)}; if it was "
            "published before signing was set up, and is what you published, sign its folder first"
        )
    return found.manifest, {file: found.files[file] for file in found.manifest["files"]}


def _before(workspace: Workspace, name: str, version: int) -> int:
    earlier = next((each for each in newest_first(workspace, name) if each < version), None)
    if earlier is None:
        raise UsageError(f"{name} has no version before {version}; name one with --to")
    return earlier


def _with_version(content: bytes, version: int) -> bytes:
    import onnx

    from tasks.networks.onnx_graph import describe
    from tasks.networks.self_contained import check_self_contained

    check_self_contained(content)
    model = onnx.load_model_from_string(content)
    describe(model, {"version": str(version)})
    return model.SerializeToString()
