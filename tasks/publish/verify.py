"""Checks a published version: complete, unchanged, valid, and promoted on evidence.

The checks need only the version's folder, not its run, its workspace or TensorFlow, so a deployment can verify a copy
anywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tasks.errors import WorkspaceError
from tasks.publish.signing import SIGNATURE_FILE, signature_problem
from tasks.storage.repository import MANIFEST
from tasks.workspace import Workspace

MODEL_FILE = "model.onnx"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of a version. `passed` is None where it was not possible or does not apply."""

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of `verify`. A version that fails is a value and not an exception."""

    model_dir: str
    checks: tuple[Check, ...]
    manifest: dict[str, Any]

    @property
    def ok(self) -> bool:
        return all(check.passed is not False for check in self.checks)

    @property
    def problems(self) -> list[str]:
        return [f"{check.name}: {check.detail}" for check in self.checks if check.passed is False]


class _Failed(Exception):
    """A check failed, for this reason."""


def verify(model_dir: str, *, public_key: str | None = None) -> Verification:
    """Checks a version's folder, such as `workspace/models/clothing/3`.

    Args:
        model_dir: a local path or an fsspec URL.
        public_key: the PEM file of the key that the version must be signed with; None needs no signature.

    Raises:
        WorkspaceError: the folder can't be read at all.
    """
    folder = Workspace(str(model_dir).rstrip("/"))
    if not folder.exists(""):
        raise WorkspaceError(f"{model_dir} does not exist; give a version's folder, such as models/clothing/3")
    manifest: dict[str, Any] = {}
    checks = tuple(_checks(folder, manifest, public_key))
    return Verification(model_dir=str(model_dir), checks=checks, manifest=manifest)


def _checks(folder: Workspace, manifest: dict[str, Any], public_key: str | None) -> Iterator[Check]:
    """Each check in turn. `manifest` is filled in first, which all others need."""

    def read_manifest() -> str:
        manifest.update(_manifest(folder))
        return f"{manifest['name']}, version {manifest['version']}"

    first = _ask("manifest", read_manifest)
    yield first
    if not first.passed:
        return
    digests = _ask("digests", lambda: _digests(folder, manifest))
    yield digests
    yield _signature(folder, public_key)
    if digests.passed:
        yield _ask("graph", lambda: _graph(folder.read_bytes(MODEL_FILE), manifest))
    yield _ask("parity", lambda: _parity(manifest))
    yield _ask("decision", lambda: _decision(manifest))


def _ask(name: str, question: Callable[[], str]) -> Check:
    try:
        return Check(name=name, passed=True, detail=question())
    except _Failed as answer:
        return Check(name=name, passed=False, detail=str(answer))


def _manifest(folder: Workspace) -> dict[str, Any]:
    if not folder.exists(MANIFEST):
        raise _Failed(f"there is no {MANIFEST}: not a published version, or one that is not whole")
    try:
        manifest = folder.read_json(MANIFEST)
    except ValueError as exc:
        raise _Failed(f"{MANIFEST} is not JSON: {exc}") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise _Failed(f"{MANIFEST} holds no object 'files' with the digest of each file")
    for key, kind in (("name", str), ("version", int)):
        if not isinstance(manifest.get(key), kind):
            raise _Failed(f"{MANIFEST} has no {kind.__name__} at {key!r}; found {manifest.get(key)!r}")
    own = folder.url.rsplit("/", 1)[-1]
    if own.isdecimal() and int(own) != manifest["version"]:
        raise _Failed(f"the folder is of version {own}, {MANIFEST} of version {manifest['version']}")
    if MODEL_FILE not in manifest["files"]:
        raise _Failed(f"{MANIFEST} gives no digest for {MODEL_FILE}")
    return manifest


def _digests(folder: Workspace, manifest: dict[str, Any]) -> str:
    promised = manifest["files"]
    present = {file.path for file in folder.files("")} - {MANIFEST, SIGNATURE_FILE}
    if unknown := sorted(present - set(promised)):
        raise _Failed(f"files that the manifest does not name: {', '.join(unknown)}")
    for name, digest in promised.items():
        if name not in present:
            raise _Failed(f"{name} is missing")
        found = hashlib.sha256(folder.read_bytes(name)).hexdigest()
        if found != digest:
            raise _Failed(f"{name} has SHA-256 {found[:12]}…, the manifest promises {str(digest)[:12]}…")
    return f"SHA-256 of {len(promised)} file{'s' if len(promised) != 1 else ''} as promised"


def _signature(folder: Workspace, public_key: str | None) -> Check:
    signed = folder.exists(SIGNATURE_FILE)
    if public_key is None:
        detail = "signed, but no public key was given to check it with" if signed else "no key is configured"
        return Check(name="signature", passed=None, detail=detail)
    if not signed:
        return Check(name="signature", passed=False, detail=f"there is no {SIGNATURE_FILE}, and a key is configured")
    problem = signature_problem(folder, public_key)
    return Check(name="signature", passed=problem is None, detail=problem or f"signed with the key of {public_key}")


def _graph(content: bytes, manifest: dict[str, Any]) -> str:
    import onnx

    try:
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model, full_check=True)
    except Exception as exc:  # noqa: BLE001 - protobuf's and onnx's errors share no base
        raise _Failed(f"{MODEL_FILE} is not a valid ONNX graph: {exc}") from None
    _check_contract(model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    labels = _labels(metadata)
    if metadata.get("name") not in (None, manifest["name"]):
        raise _Failed(f"{MODEL_FILE} is of the model {metadata['name']!r}, the manifest of {manifest['name']!r}")
    opset = max(entry.version for entry in model.opset_import)
    return f"valid ONNX of opset {opset}, {len(labels)} classes"


def _check_contract(model: Any) -> None:
    import onnx

    initialised = {tensor.name for tensor in model.graph.initializer}
    inputs = {i.name: i.type.tensor_type for i in model.graph.input if i.name not in initialised}
    outputs = {o.name for o in model.graph.output}
    uint8 = onnx.TensorProto.UINT8
    if set(inputs) != {"image"} or inputs["image"].elem_type != uint8 or len(inputs["image"].shape.dim) != 4:
        raise _Failed(f"{MODEL_FILE} should take one input, 'image', uint8 [N, H, W, 3]; it takes {sorted(inputs)}")
    if not {"probabilities", "label"} <= outputs:
        raise _Failed(f"{MODEL_FILE} should give 'probabilities' and 'label'; it gives {sorted(outputs)}")


def _labels(metadata: dict[str, str]) -> list[str]:
    try:
        labels = json.loads(metadata["labels"])
    except (KeyError, ValueError):
        labels = None
    if not isinstance(labels, list) or not labels:
        raise _Failed(f"{MODEL_FILE} has no JSON list of class names in its metadata 'labels'")
    return labels


def _gates(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    decision = manifest.get("decision")
    gates = decision.get("gates") if isinstance(decision, dict) else None
    if not isinstance(gates, list) or not gates:
        raise _Failed("the manifest holds no gate decision")
    return gates


def _parity(manifest: dict[str, Any]) -> str:
    gates = [gate for gate in _gates(manifest) if "parity" in str(gate.get("name"))]
    if not gates:
        raise _Failed("the decision has no parity gate: nothing shows that the file agrees with its source")
    for gate in gates:
        if gate.get("passed") is not True:
            raise _Failed(f"{gate['name']} did not pass: {gate.get('reason')}")
    return "; ".join(str(gate.get("reason")) for gate in gates)


def _decision(manifest: dict[str, Any]) -> str:
    gates = _gates(manifest)
    override = manifest["decision"].get("override")
    if manifest["decision"].get("promote") is not True:
        raise _Failed("the gates did not promote this version")
    failed = [gate for gate in gates if gate.get("passed") is False]
    overridden = isinstance(override, dict) and override.get("by") and override.get("reason")
    # Nobody may override these: see `tasks.publish.promote`.
    final = [gate for gate in failed if not overridden or gate.get("overridable") is False]
    if final:
        raise _Failed(f"promoted, though these gates failed: {', '.join(str(gate.get('name')) for gate in final)}")
    passed = f"promoted; {sum(gate.get('passed') is True for gate in gates)} of {len(gates)} gates passed"
    return f"{passed}; overridden by {override['by']}: {override['reason']}" if overridden else passed
