"""The export stage as a Prefect task."""

from __future__ import annotations

from tasks.artifacts import HeadRef, ModelRef, Run, SnapshotRef, TrunkRef
from tasks.export.model import export_model
from tasks.repository import next_version
from tasks.task import stage


@stage("export")
def export_candidate(run: Run, snapshot: SnapshotRef, trunk: TrunkRef, head: HeadRef) -> ModelRef:
    """model.onnx under the version that it will have if the gates promote it."""
    return export_model(run, snapshot, trunk, head, next_version(run.workspace, run.name))
