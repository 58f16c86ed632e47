"""Signatures of published versions, by the OpenSSF's model-signing package (the optional extra `signing`).

A signature covers every file of the version's folder, the manifest included, and lies beside them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tasks.errors import ConfigError
from tasks.workspace import Workspace

SIGNATURE_FILE = "model.sig"


def sign(folder: Path, private_key: str) -> None:
    """Writes `folder`/model.sig, made with the elliptic-curve key in the PEM file `private_key`.

    Raises:
        ConfigError: the extra is not installed, or the key can't be read.
    """
    signing, _, hashing = _library()
    try:
        signer = signing.Config().use_elliptic_key_signer(private_key=Path(private_key))
    except (OSError, ValueError, TypeError) as exc:
        raise ConfigError(f"can't read the private key {private_key}: {exc}") from exc
    # What is left out is part of what is signed, so that nobody can leave out more.
    every_other_file = hashing.Config().set_ignored_paths(paths=[folder / SIGNATURE_FILE], ignore_git_paths=False)
    signer.set_hashing_config(every_other_file).sign(folder, folder / SIGNATURE_FILE)


def signature_problem(folder: Workspace, public_key: str) -> str | None:
    """Why the signature in `folder` is not one of `public_key` over its files, or None where it is.

    Raises:
        ConfigError: the extra is not installed, or the key can't be read.
    """
    _, verifying, _ = _library()
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=Path(public_key))
    except (OSError, ValueError, TypeError) as exc:
        raise ConfigError(f"can't read the public key {public_key}: {exc}") from exc
    with tempfile.TemporaryDirectory(prefix="headstart-") as scratch:
        local = Path(folder.path("")) if folder.is_local else _copy(folder, Path(scratch))
        try:
            verifier.verify(local, local / SIGNATURE_FILE)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the signature was not verified
            return f"{SIGNATURE_FILE} does not verify: {exc}"
    return None


def _copy(folder: Workspace, target: Path) -> Path:
    for name in folder.names(""):
        (target / name).write_bytes(folder.read_bytes(name))
    return target


def _library():
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as exc:
        raise ConfigError(
            "a signing key is configured, and the package that checks signatures is not installed: "
            "add the extra, `pip install 'headstart[signing]'` or `uv sync --extra signing`"
        ) from exc
    return signing, verifying, hashing
