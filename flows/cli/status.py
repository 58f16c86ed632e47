"""`headstart status`: what stands, what was, and why the last run decided as it did."""

from __future__ import annotations

from itertools import islice
from typing import Any

from tasks.errors import UsageError
from tasks.modality.wording import worded
from tasks.runs import finished_runs, task_of
from tasks.storage.repository import read_manifest, version_path, versions
from tasks.workspace import Workspace

HISTORY = 10
LAST = ("run_id", "verdict", "reasons", "report", "override", "label_issues")  # of the last run's summary


def model_status(workspace: Workspace, name: str) -> dict[str, Any]:
    """The champion, the published versions and the last runs of a model.

    Raises:
        UsageError: no run of that name was ever finished here.
    """
    published = [read_manifest(workspace, name, version) for version in versions(workspace, name)]
    runs = list(islice(finished_runs(workspace, name), HISTORY))
    if not published and not runs:
        check_known(workspace, name)
    return {
        "name": name,
        "champion": _version(workspace, published[-1]) if published else None,
        "versions": [_version(workspace, manifest) for manifest in reversed(published)],
        "last_decision": _last_decision(runs[0]) if runs else None,
        "runs": [{key: run.get(key) for key in ("run_id", "verdict", "snapshot", "images")} for run in runs],
    }


def check_known(workspace: Workspace, name: str) -> None:
    """Raises UsageError where no run of that name was ever finished in this workspace, and none was published."""
    if not versions(workspace, name) and next(finished_runs(workspace, name), None) is None:
        raise UsageError(f"nothing is known of {name!r} in {workspace.url}; run headstart retrain SOURCE --name {name}")


def status_text(status: dict[str, Any]) -> str:
    """The same for a person."""
    champion = status["champion"]
    lines = [f"{status['name']}: " + (f"version {champion['version']} in service" if champion else "no champion yet")]
    for row in status["versions"]:
        test = row["metrics"].get("test", {})
        again = f"  version {row['restored']} again" if row["restored"] else ""
        accuracy = f"test accuracy {test.get('accuracy', 0):.3f}"
        lines.append(f"  version {row['version']}  {row['published_at']}  {accuracy}{again}")
        if override := row["override"]:
            lines.append(f"    promoted by {override['by']} against the gates: {override['reason']}")
    if last := status["last_decision"]:
        lines += [f"last run {last['run_id']}: {last['verdict']}", *(f"  {reason}" for reason in last["reasons"])]
        lines.append(f"  report: {last['report']}")
        if issues := last["label_issues"]:
            lines.append(f"  labels: {issues} likely wrong; headstart review {status['name']} shows them")
    return "\n".join(lines)


def _last_decision(summary: dict[str, Any]) -> dict[str, Any]:
    reasons = [worded(reason, task_of(summary), summary.get("labels") or ()) for reason in summary["reasons"]]
    return {**{key: summary.get(key) for key in LAST}, "reasons": reasons}


def _version(workspace: Workspace, manifest: dict[str, Any]) -> dict[str, Any]:
    path = version_path(manifest["name"], manifest["version"], "model.onnx")
    kept = {key: manifest.get(key) for key in ("version", "published_at", "run_id", "metrics", "restored")}
    kept["override"] = manifest["decision"].get("override")
    return {**kept, "snapshot": manifest["lineage"]["snapshot"], "model": workspace.display(path)}
