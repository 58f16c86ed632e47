"""The publishing stage as a Prefect task."""

from __future__ import annotations

from tasks.artifacts import GateDecision, HeadRef, ModelRef, Run, SnapshotRef, TrunkRef, VariantRef
from tasks.publish.stage import publish
from tasks.task import stage


@stage("publish")
def publish_model(
    run: Run,
    snapshot: SnapshotRef,
    trunk: TrunkRef,
    head: HeadRef,
    candidate: ModelRef,
    decision: GateDecision,
    variants: tuple[VariantRef, ...] = (),
) -> str:
    """The path of the published model.onnx."""
    return publish(run, snapshot, trunk, head, candidate, decision, variants)
