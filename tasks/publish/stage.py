"""Publishing: the judged file, byte for byte, into the model repository."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import onnx

from tasks.errors import DamagedFileError
from tasks.networks.self_contained import check_self_contained
from tasks.publish.signing import sign_files
from tasks.records import Decision, Run, Variant
from tasks.storage.lineage import lineage
from tasks.storage.repository import MODEL, TOKENIZER, triton_config, version_in_service, version_path, write_version
from tasks.workspace import Workspace


def publish(run: Run, decision: Decision, variants: tuple[Variant, ...], artifacts: Mapping[str, str]) -> str:
    """Writes `models/<name>/<version>/` and returns the path of its model.onnx.

    Where that version is in service already, by a run that was interrupted behind this point, it is left as it is.

    Args:
        artifacts: the folder of each artifact that the model was made of, by stage.

    Raises:
        DamagedFileError: the candidate is no longer the file that was judged.
        ConfigError: a signing key is configured, and can't be used.
        WorkspaceError: it can't be written, or the version was taken meanwhile.
    """
    candidate = decision.candidate
    path = version_path(run.name, candidate.version, MODEL)
    if candidate.version == version_in_service(run.workspace, run.name, candidate.head):
        return path
    files = judged_files(run.workspace, candidate.onnx_path, candidate.sha256)
    # In a folder of their own: OpenVINO Model Server loads whichever .onnx it comes upon first beside the manifest.
    files |= {
        f"variants/{each.precision}.onnx": judged_file(run.workspace, each.onnx_path, each.sha256)
        for each in variants
        if each.published
    }
    manifest = version_manifest(
        run_id=run.run_id,
        published_at=run.started_at,
        labels=candidate.head.features.snapshot.labels,
        decision=asdict(decision),
        variants=variants,
        lineage=lineage(run, candidate.head, artifacts),
    )
    write_version(
        run.workspace,
        run.name,
        candidate.version,
        files,
        manifest,
        triton_config(run.name, manifest),
        sign_files,
    )
    return path


def version_manifest(
    *,
    run_id: str,
    published_at: str,
    labels: Sequence[str],
    decision: Mapping[str, Any],
    variants: Sequence[Variant],
    lineage: Mapping[str, Any],
) -> dict[str, Any]:
    """What a version says of itself.

    Args:
        decision: a Decision's fields, and the `override` where a person published what the gates refused.
    """
    kept = ("promote", "reasons", "gates", "champion_version", "override")
    return {
        "run_id": run_id,
        "published_at": published_at,
        "labels": list(labels),
        "metrics": decision["metrics"],
        "decision": {key: decision[key] for key in kept if key in decision},
        "familiarity": decision.get("familiarity"),
        "variants": {each.precision: {"published": each.published, **each.measured} for each in variants},
        "lineage": lineage,
    }


def judged_files(workspace: Workspace, path: str, sha256: str) -> dict[str, bytes]:
    """A candidate that was judged, fit to be published: model.onnx and, of texts, the tokenizer that its metadata
    names. Raises DamagedFileError where they are not what was judged."""
    files = {MODEL: judged_file(workspace, path, sha256)}
    tokenizer = f"{path.rpartition('/')[0]}/{TOKENIZER}"
    if workspace.exists(tokenizer):
        metadata = {entry.key: entry.value for entry in onnx.load_model_from_string(files[MODEL]).metadata_props}
        files[TOKENIZER] = _unchanged(workspace, tokenizer, metadata.get(TOKENIZER, ""))
    return files


def judged_file(workspace: Workspace, path: str, sha256: str) -> bytes:
    """The bytes of an ONNX file that was judged, fit to be published. Raises DamagedFileError where they are not."""
    content = _unchanged(workspace, path, sha256)
    check_self_contained(content)
    return content


def _unchanged(workspace: Workspace, path: str, sha256: str) -> bytes:
    content = workspace.read_bytes(path)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedFileError(f"{path} changed after it was judged; run the retrain again")
    return content
