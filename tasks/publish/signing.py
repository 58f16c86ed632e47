"""Signatures of published versions, by the OpenSSF's model-signing package (the optional extra `signing`).

A signature covers every file of the version's folder, the manifest included, and lies beside them. Publishing and
rolling back sign where the environment variable HEADSTART_SIGNING_KEY names a private key.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError
from tasks.workspace import Workspace

SIGNATURE_FILE = "model.sig"
KEY_VARIABLE = "HEADSTART_SIGNING_KEY"  # the path of the private key, which is never written to the workspace


def sign_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The signature over `files` (content by name) as a file of its own, or nothing where no key is configured.

    Raises:
        ConfigError: the extra is not installed, or the key can't be read.
    """
    private_key = os.environ.get(KEY_VARIABLE)
    if not private_key:
        return {}
    with tempfile.TemporaryDirectory(prefix="headstart-") as scratch:
        folder = Path(scratch)
        _lay(folder, files)
        sign(folder, private_key)
        return {SIGNATURE_FILE: (folder / SIGNATURE_FILE).read_bytes()}


def check_key() -> None:
    """Checks the configured private key, if any, before a run spends time. Raises ConfigError."""
    if private_key := os.environ.get(KEY_VARIABLE):
        _signer(private_key)


def sign(folder: Path, private_key: str) -> None:
    """Writes `folder`/model.sig, made with the elliptic-curve key in the PEM file `private_key`.

    Raises:
        ConfigError: the extra is not installed, or the key can't be read.
    """
    signer, hashing = _signer(private_key)
    # The ignored paths are part of the signature, so nobody can add to them.
    every_other_file = hashing.Config().set_ignored_paths(paths=[folder / SIGNATURE_FILE], ignore_git_paths=False)
    signer.set_hashing_config(every_other_file).sign(folder, folder / SIGNATURE_FILE)


def _signer(private_key: str) -> tuple[Any, Any]:
    """The library's signer and its hashing module. Messages name the variable, not the path in it."""
    signing, _, hashing = _library()
    try:
        return signing.Config().use_elliptic_key_signer(private_key=Path(private_key)), hashing
    except OSError as exc:
        raise ConfigError(f"can't read the private key that {KEY_VARIABLE} names: {exc.strerror}") from None
    except (ValueError, TypeError) as exc:
        raise ConfigError(
            f"the file that {KEY_VARIABLE} names holds no elliptic-curve private key in PEM without a password: {exc}"
        ) from None


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


def _copy(source: Workspace, target: Path) -> Path:
    _lay(target, {file.path: source.read_bytes(file.path) for file in source.files("")})
    return target


def _lay(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _library():
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as exc:
        raise ConfigError(
            "a signing key is configured, and the package that checks signatures is not installed: "
            "add the extra, `pip install 'headstart[signing]'` or `uv sync --extra signing`"
        ) from exc
    return signing, verifying, hashing
