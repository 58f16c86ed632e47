"""Publishing: the judged file, byte for byte, into the model repository."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tasks.errors import DamagedFileError
from tasks.publish.signing import sign_files
from tasks.records import Candidate, Decision, Run, Variant
from tasks.storage.lineage import lineage
from tasks.storage.repository import MODEL, triton_config, version_in_service, version_path, write_version


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
    files = {MODEL: _unchanged(run, candidate)}
    # In a folder of their own: OpenVINO Model Server loads whichever .onnx it comes upon first beside the manifest.
    files |= {f"variants/{each.precision}.onnx": _unchanged(run, each) for each in variants if each.published}
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
        triton_config(run.name),
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
        "variants": {each.precision: {"published": each.published, **each.measured} for each in variants},
        "lineage": lineage,
    }


def _unchanged(run: Run, file: Candidate | Variant) -> bytes:
    content = run.workspace.read_bytes(file.onnx_path)
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise DamagedFileError(f"{file.onnx_path} changed after it was judged; run the retrain again")
    return content
