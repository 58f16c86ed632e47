"""A person publishes a candidate that the gates refused, with a name and a reason.

The gates' results are kept; the override is entered beside them, in the manifest, the run's decision and summary,
and so in the report, the model card and `headstart status`. A gate without evidence can't be overridden, nor
one that shows that the file is not what was trained or does not serve.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tasks.errors import RefusedError, UsageError
from tasks.publish.signing import sign_files
from tasks.publish.stage import judged_files, version_manifest
from tasks.records import Run
from tasks.runs import finished_run, one_at_a_time, write_summary
from tasks.storage.repository import champion, read_manifest, triton_config, version_path, write_version
from tasks.workspace import Workspace

MAX_REASON = 1000  # characters


def promote(workspace: Workspace, run_id: str, *, by: str, reason: str) -> tuple[Run, dict[str, Any]]:
    """Publishes the candidate of a refused run as the next version.

    Completes an earlier attempt that was interrupted after publishing.

    Returns:
        The run, and `{"name", "version", "run_id", "override", "model"}`.

    Raises:
        UsageError: there is no such run, it was not refused, a newer version is in service, or `by` or `reason` is
            empty or too long.
        RefusedError: a gate refused that can't be overridden.
        DamagedFileError: the candidate is no longer the file that was judged.
        ConfigError: a signing key is configured, and can't be used.
    """
    override = {
        "by": _line("--by", by),
        "reason": _line("--reason", reason),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    run, summary = finished_run(workspace, run_id)
    with one_at_a_time(run):
        in_service = champion(workspace, run.name)
        published = read_manifest(workspace, run.name, in_service) if in_service is not None else {}
        if published.get("run_id") == run_id and (done := published["decision"].get("override")):
            override = done
        else:
            published = _publish(run, summary, in_service, override)
        _record(run, summary, published["version"], override)
    model = workspace.display(version_path(run.name, published["version"], "model.onnx"))
    return run, {
        "name": run.name,
        "version": published["version"],
        "run_id": run_id,
        "override": override,
        "model": model,
    }


def _line(option: str, text: str) -> str:
    line = " ".join(text.split())
    if not 0 < len(line) <= MAX_REASON:
        raise UsageError(f"{option} takes 1 to {MAX_REASON} characters; found {len(line)}")
    return line


def _publish(run: Run, summary: dict[str, Any], in_service: int | None, override: dict[str, str]) -> dict[str, Any]:
    """Writes the version; returns its manifest."""
    if summary["verdict"] != "refused":
        raise UsageError(f"run {run.run_id} is {summary['verdict']}: only a refused run has a candidate to promote")
    decision = run.workspace.read_json(run.path("decision.json"))
    if "candidate" not in decision:
        raise UsageError(f"run {run.run_id} was made before candidates could be promoted; run the retrain again")
    failed = [gate for gate in decision["gates"] if gate["passed"] is False]
    if final := [f"{gate['name']}: {gate['reason']}" for gate in failed if not gate["overridable"]]:
        raise RefusedError("these gates can't be overridden:\n" + "\n".join(f"  {each}" for each in final))
    candidate = decision["candidate"]
    if in_service != decision["champion_version"]:
        raise UsageError(
            f"run {run.run_id} was compared with version {decision['champion_version'] or 'none'} of {run.name}, and "
            f"{in_service or 'none'} is in service now; run the retrain again"
        )
    files = judged_files(run.workspace, candidate["onnx_path"], candidate["sha256"])
    manifest = version_manifest(
        run_id=run.run_id,
        published_at=override["at"],
        labels=summary["labels"],
        decision={**decision, "promote": True, "override": {**override, "gates": [gate["name"] for gate in failed]}},
        variants=(),
        lineage=summary["lineage"],
    )
    write_version(
        run.workspace, run.name, candidate["version"], files, manifest, triton_config(run.name, manifest), sign_files
    )
    return read_manifest(run.workspace, run.name, candidate["version"])


def _record(run: Run, summary: dict[str, Any], version: int, override: dict[str, str]) -> None:
    """Enters the override: the decision first, then the summary, which makes the run a promoted one."""
    decision = run.workspace.read_json(run.path("decision.json"))
    changed = {"verdict": "promoted", "override": override}
    run.workspace.write_json(run.path("decision.json"), {**decision, **changed, "promote": True})
    said = f"published by {override['by']} against the gates: {override['reason']}"
    model = run.workspace.display(version_path(run.name, version, "model.onnx"))
    changed |= {"reasons": [said, *decision["reasons"]], "version": version, "model": model}
    write_summary(run, {**summary, **changed})
