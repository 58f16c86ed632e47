"""Signatures of published versions, by the OpenSSF's model-signing package (the optional extra `signing`).

A signature covers every file of the version's folder, and lies beside them. One of them is the manifest, which holds
the model's name and the version's number: a version of another name or number is not what was signed. Publishing and
rolling back sign where the environment variable HEADSTART_SIGNING_KEY names a private key.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError
from tasks.storage.version_files import SIGNATURE

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
        return {SIGNATURE: (folder / SIGNATURE).read_bytes()}


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
    every_other_file = hashing.Config().set_ignored_paths(paths=[folder / SIGNATURE], ignore_git_paths=False)
    signer.set_hashing_config(every_other_file).sign(folder, folder / SIGNATURE)


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


@contextmanager
def own_public_key() -> Iterator[str | None]:
    """The path of a PEM file with the public half of the configured private key, for the block; None without a key.

    Raises:
        ConfigError: the extra is not installed, or the key can't be read.
    """
    private_key = os.environ.get(KEY_VARIABLE)
    if not private_key:
        yield None
        return
    check_key()
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    own = load_pem_private_key(Path(private_key).read_bytes(), None).public_key()
    with tempfile.TemporaryDirectory(prefix="headstart-") as scratch:
        file = Path(scratch) / "public.pem"
        file.write_bytes(own.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        yield str(file)


def signature_problem(files: Mapping[str, bytes], public_key: str) -> str | None:
    """Why the signature among `files` is not one of `public_key` over all the others, or None where it is.

    Args:
        files: the content of a version's files by path, as it will be used.

    Raises:
        ConfigError: the extra is not installed, or the key can't be read.
    """
    _, verifying, _ = _library()
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=Path(public_key))
    except (OSError, ValueError, TypeError) as exc:
        raise ConfigError(f"can't read the public key {public_key}: {exc}") from exc
    with tempfile.TemporaryDirectory(prefix="headstart-") as scratch:
        folder = Path(scratch)
        _lay(folder, files)
        try:
            verifier.verify(folder, folder / SIGNATURE)
            covered = _covered(files[SIGNATURE])
        except Exception as exc:  # noqa: BLE001 - whatever it is, the signature was not verified
            return f"{SIGNATURE} does not verify: {exc}"
    # A signature may leave files out by its own account, and would verify whatever they hold.
    if left_out := sorted(files.keys() - covered - {SIGNATURE}):
        return f"{SIGNATURE} does not cover {', '.join(left_out)}; it has to cover every file of the version"
    return None


def _covered(signature: bytes) -> set[str]:
    """The files that a verified signature covers: those of its in-toto statement."""
    statement = json.loads(base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"]))
    return {resource["name"] for resource in statement["predicate"]["resources"]}


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
