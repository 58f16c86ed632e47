"""The publishing stage as a Prefect task."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import GateDecision, HeadRef, ModelRef, Run, SnapshotRef, TrunkRef
from tasks.publish.stage import publish
from tasks.retry import is_transient


@task(
    name="publish",
    retries=2,
    retry_delay_seconds=[1, 5],
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def publish_model(
    run: Run, snapshot: SnapshotRef, trunk: TrunkRef, head: HeadRef, candidate: ModelRef, decision: GateDecision
) -> str:
    """The path of the published model.onnx."""
    return publish(run, snapshot, trunk, head, candidate, decision)
