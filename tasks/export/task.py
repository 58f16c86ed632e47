"""The export stage as a Prefect task."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import HeadRef, ModelRef, Run, SnapshotRef, TrunkRef
from tasks.export.model import export_model
from tasks.repository import next_version
from tasks.retry import is_transient


@task(
    name="export",
    retries=2,
    retry_delay_seconds=[1, 5],
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def export_candidate(run: Run, snapshot: SnapshotRef, trunk: TrunkRef, head: HeadRef) -> ModelRef:
    """model.onnx under the version that it will have if the gates promote it."""
    return export_model(run, snapshot, trunk, head, next_version(run.workspace, run.name))
