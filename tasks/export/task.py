"""The export stage as Prefect tasks."""

from __future__ import annotations

from tasks import keras_process
from tasks.artifacts import HeadRef, ModelRef, Run, SnapshotRef, TrunkRef, VariantRef
from tasks.export.model import export_model
from tasks.export.variants import export_variants
from tasks.task import stage


@stage("export", kept=True)
def export_candidate(run: Run, snapshot: SnapshotRef, trunk: TrunkRef, head: HeadRef, version: int) -> ModelRef:
    """model.onnx under the version that it will have if the gates promote it."""
    return keras_process.call(export_model, run, snapshot, trunk, head, version)


@stage("variants", kept=True)
def make_variants(run: Run, snapshot: SnapshotRef, trunk: TrunkRef, candidate: ModelRef) -> tuple[VariantRef, ...]:
    """The promoted model in the other precisions that the configuration asks for, measured."""
    return export_variants(run, snapshot, trunk, candidate)
