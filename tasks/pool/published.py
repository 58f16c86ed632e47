"""The published version of a model that predicts and chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.errors import DamagedFileError, UsageError
from tasks.publish.verify import verify_version
from tasks.storage.repository import champion, published_models, read_manifest
from tasks.workspace import Workspace, check_name


def read_champion(
    workspace: Workspace, name: str, public_key: str | None = None
) -> tuple[Mapping[str, bytes], dict[str, Any]]:
    """The files of the champion by their names, and its manifest, verified as `serve` does.

    Args:
        public_key: PEM file of the key that it must be signed with; None needs no signature.

    Raises:
        UsageError: there is no such model.
        DamagedFileError: the champion does not verify.
    """
    version = champion(workspace, check_name(name))
    if version is None:
        known = ", ".join(published_models(workspace)) or "none"
        raise UsageError(f"no model {name!r} has been published in {workspace.url}; there is: {known}")
    found = verify_version(workspace, name, version, public_key=public_key)
    if not found.ok:
        raise DamagedFileError(f"version {version} of {name} does not verify: {'; '.join(found.problems)}")
    return found.files, read_manifest(workspace, name, version)
