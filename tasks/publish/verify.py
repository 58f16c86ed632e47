"""Checks a published version: complete, unchanged, valid, and promoted on evidence.

The checks need only the version's folder, not its run, its workspace or TensorFlow, so a deployment can verify a copy
anywhere.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tasks.display import visible
from tasks.errors import DamagedFileError, HeadstartError, WorkspaceError
from tasks.modality.feeds import INPUTS
from tasks.networks.classifier import tokens_of
from tasks.networks.onnx_session import open_model
from tasks.networks.self_contained import check_self_contained
from tasks.publish.signing import signature_problem
from tasks.storage.repository import MODEL, TOKENIZER, VERSION, version_path
from tasks.storage.version_files import MANIFEST, SIGNATURE, VersionFiles, read_version_files
from tasks.workspace import Workspace

PROBE_PX = 64
PROBES = {
    "image": {"image": np.zeros((1, PROBE_PX, PROBE_PX, 3), np.uint8)},
    "text": {name: np.ones((1, 8), np.int64) for name in INPUTS["text"]},
}
TAKES = {
    "image": "one input, 'image', uint8 [N, H, W, 3]",
    "text": "two inputs, 'input_ids' and 'attention_mask', int64 [N, T]",
}
PROBE_S = 30.0  # the largest backbones take a second


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
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # what was checked, to be loaded as it is

    @property
    def ok(self) -> bool:
        return all(check.passed is not False for check in self.checks)

    @property
    def problems(self) -> list[str]:
        return [f"{check.name}: {check.detail}" for check in self.checks if check.passed is False]


class _Failed(Exception):
    """A check failed, for this reason."""


@dataclass(frozen=True, kw_only=True)
class _Place:
    """What a version has to be of: from where it lies, or from who asked for it; None is unknown."""

    name: str | None
    version: int | None


def verify(model_dir: str, *, public_key: str | None = None) -> Verification:
    """Checks a version's folder, such as `workspace/models/clothing/3`.

    Args:
        model_dir: a local path or an fsspec URL. Its last parts say of which version it has to be, and, in a model
            repository, of which model.
        public_key: the PEM file of the key that the version must be signed with; None needs no signature.

    Raises:
        WorkspaceError: the folder can't be read at all.
    """
    folder = Workspace(str(model_dir).rstrip("/"))
    if not folder.exists(""):
        raise WorkspaceError(f"{model_dir} does not exist; give a version's folder, such as models/clothing/3")
    *_, repository, name, own = ["", "", *folder.path("").split("/")]
    version = int(own) if VERSION.fullmatch(own) else None
    place = _Place(name=name if version and repository == "models" else None, version=version)
    return _verify(str(model_dir), folder, place, public_key)


def verify_version(workspace: Workspace, name: str, version: int, *, public_key: str | None = None) -> Verification:
    """Checks one version of a workspace: as `verify`."""
    folder = f"{workspace.url.rstrip('/')}/{version_path(name, version)}"
    return _verify(folder, Workspace(folder), _Place(name=name, version=version), public_key)


def _verify(model_dir: str, folder: Workspace, place: _Place, public_key: str | None) -> Verification:
    manifest: dict[str, Any] = {}
    try:
        files = read_version_files(folder)
    except DamagedFileError as exc:
        failed = Check(name="files", passed=False, detail=str(exc))
        return Verification(model_dir=model_dir, checks=(failed,), manifest=manifest)
    checks = tuple(_checks(files, place, manifest, public_key))
    return Verification(model_dir=model_dir, checks=checks, manifest=manifest, files=files.contents)


def _checks(files: VersionFiles, place: _Place, manifest: dict[str, Any], public_key: str | None) -> Iterator[Check]:
    """Each check in turn. `manifest` is filled in first, which all others need."""

    def read_manifest() -> str:
        manifest.update(_manifest(files, place))
        return f"{manifest['name']}, version {manifest['version']}"

    first = _ask("manifest", read_manifest)
    yield first
    if not first.passed:
        return
    digests = _ask("digests", lambda: _digests(files, manifest))
    yield digests
    signature = _signature(files, public_key)
    yield signature
    if digests.passed and signature.passed is not False:  # no graph is loaded that may be anybody's
        yield _ask("graph", lambda: _graph(files.contents, manifest))
    yield _ask("parity", lambda: _parity(manifest))
    yield _ask("decision", lambda: _decision(manifest))


def _ask(name: str, question: Callable[[], str]) -> Check:
    try:
        return Check(name=name, passed=True, detail=visible(question()))
    except _Failed as answer:
        return Check(name=name, passed=False, detail=visible(str(answer)))  # it may quote the file


def _manifest(files: VersionFiles, place: _Place) -> dict[str, Any]:
    if MANIFEST not in files.contents:
        raise _Failed(f"there is no {MANIFEST}: not a published version, or one that is not whole")
    try:
        manifest = files.manifest()
    except ValueError as exc:
        raise _Failed(f"{MANIFEST} is not JSON: {exc}") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise _Failed(f"{MANIFEST} holds no object 'files' with the digest of each file")
    for key, kind in (("name", str), ("version", int)):
        if not isinstance(manifest.get(key), kind):
            raise _Failed(f"{MANIFEST} has no {kind.__name__} at {key!r}; found {manifest.get(key)!r}")
    if place.version not in (None, manifest["version"]):
        raise _Failed(f"the folder is of version {place.version}, {MANIFEST} of version {manifest['version']}")
    if place.name not in (None, manifest["name"]):
        raise _Failed(f"the folder is of the model {place.name!r}, {MANIFEST} of {manifest['name']!r}")
    if MODEL not in manifest["files"]:
        raise _Failed(f"{MANIFEST} gives no digest for {MODEL}")
    return manifest


def _digests(files: VersionFiles, manifest: dict[str, Any]) -> str:
    promised = manifest["files"]
    if files.others:
        raise _Failed(f"files that the manifest does not name: {', '.join(files.others)}")
    for name, digest in promised.items():
        if name not in files.contents:
            raise _Failed(f"{name} is missing")
        found = hashlib.sha256(files.contents[name]).hexdigest()
        if found != digest:
            raise _Failed(f"{name} has SHA-256 {found[:12]}…, the manifest promises {str(digest)[:12]}…")
    return f"SHA-256 of {len(promised)} file{'s' if len(promised) != 1 else ''} as promised"


def _signature(files: VersionFiles, public_key: str | None) -> Check:
    signed = SIGNATURE in files.contents
    if public_key is None:
        detail = "signed, but no public key was given to check it with" if signed else "no key is configured"
        return Check(name="signature", passed=None, detail=detail)
    if not signed:
        return Check(name="signature", passed=False, detail=f"there is no {SIGNATURE}, and a key is configured")
    problem = signature_problem(files.contents, public_key)
    return Check(name="signature", passed=problem is None, detail=problem or f"signed with the key of {public_key}")


def _graph(contents: Mapping[str, bytes], manifest: dict[str, Any]) -> str:
    import onnx

    content = contents[MODEL]
    try:
        check_self_contained(content)  # before onnx's checker, which opens other files
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model, full_check=True)
    except DamagedFileError as exc:
        raise _Failed(f"{MODEL}: {exc}") from None
    except Exception as exc:  # noqa: BLE001 - protobuf's and onnx's errors share no base
        raise _Failed(f"{MODEL} is not a valid ONNX graph: {exc}") from None
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    texts = metadata.get("task") == "text"
    _check_contract(model, "text" if texts else "image")
    if texts:
        _check_tokenizer(metadata, contents.get(TOKENIZER))
    labels = _labels(metadata)
    for key in ("name", "version"):
        if metadata.get(key) not in (None, str(manifest[key])):
            raise _Failed(f"{MODEL} is of the {_of(key, metadata[key])}, the manifest of {manifest[key]!r}")
    _predicts(content, "text" if texts else "image")
    opset = max(entry.version for entry in model.opset_import)
    return f"valid ONNX of opset {opset}, {len(labels)} classes"


def _of(key: str, value: str) -> str:
    return f"model {value!r}" if key == "name" else f"version {value}"


def _check_tokenizer(metadata: Mapping[str, str], content: bytes | None) -> None:
    try:
        tokens_of(metadata, content, MODEL).ids("a text")
    except (HeadstartError, KeyError, ValueError) as exc:
        raise _Failed(str(exc)) from None


def _predicts(content: bytes, task: str) -> None:
    """One prediction, in bounded memory and time."""
    import onnxruntime as ort

    options = ort.RunOptions()
    alarm = threading.Timer(PROBE_S, setattr, (options, "terminate", True))
    alarm.start()
    try:
        open_model(content).run(["probabilities", "label"], PROBES[task], options)
    except Exception as exc:  # noqa: BLE001 - ONNX Runtime's exceptions share no public base
        late = f" (it was stopped after {PROBE_S:g} s)" if options.terminate else ""
        raise _Failed(f"{MODEL} can't predict: {str(exc).splitlines()[0]}{late}") from None
    finally:
        alarm.cancel()


def _check_contract(model: Any, task: str) -> None:
    import onnx

    initialised = {tensor.name for tensor in model.graph.initializer}
    inputs = {i.name: i.type.tensor_type for i in model.graph.input if i.name not in initialised}
    outputs = {o.name for o in model.graph.output}
    kind, rank = (onnx.TensorProto.INT64, 2) if task == "text" else (onnx.TensorProto.UINT8, 4)
    fits = all(each.elem_type == kind and len(each.shape.dim) == rank for each in inputs.values())
    if set(inputs) != set(INPUTS[task]) or not fits:
        raise _Failed(f"{MODEL} should take {TAKES[task]}; it takes {sorted(inputs)}")
    if not {"probabilities", "label"} <= outputs:
        raise _Failed(f"{MODEL} should give 'probabilities' and 'label'; it gives {sorted(outputs)}")


def _labels(metadata: dict[str, str]) -> list[str]:
    try:
        labels = json.loads(metadata["labels"])
    except (KeyError, ValueError):
        labels = None
    if not isinstance(labels, list) or not labels:
        raise _Failed(f"{MODEL} has no JSON list of class names in its metadata 'labels'")
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
    applying = [gate for gate in gates if gate.get("passed") is not None]
    passed = f"promoted; {sum(gate['passed'] is True for gate in applying)} of {len(applying)} gates passed"
    if aside := [str(gate.get("name")) for gate in gates if gate.get("passed") is None]:
        passed += f" ({', '.join(aside)} did not apply)"
    return f"{passed}; overridden by {override['by']}: {override['reason']}" if overridden else passed
