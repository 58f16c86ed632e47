"""The evaluation stage as a Prefect task."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import GateDecision, HeadRef, ModelRef, Run, SnapshotRef, TrunkRef
from tasks.evaluate.stage import evaluate
from tasks.retry import is_transient


@task(
    name="evaluate",
    retries=2,
    retry_delay_seconds=[1, 5],
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def evaluate_candidate(
    run: Run, snapshot: SnapshotRef, trunk: TrunkRef, head: HeadRef, candidate: ModelRef
) -> GateDecision:
    """The gates' decision on the candidate's file. A refusal is a value, not a failure."""
    return evaluate(run, snapshot, trunk, head, candidate)
