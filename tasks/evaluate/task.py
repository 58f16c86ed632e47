"""The evaluation stage as a Prefect task."""

from __future__ import annotations

from tasks.artifacts import GateDecision, HeadRef, ModelRef, Run, SnapshotRef, TrunkRef
from tasks.evaluate.stage import evaluate
from tasks.task import stage


@stage("evaluate")
def evaluate_candidate(
    run: Run, snapshot: SnapshotRef, trunk: TrunkRef, head: HeadRef, candidate: ModelRef
) -> GateDecision:
    """The gates' decision on the candidate's file. A refusal is a value, not a failure."""
    return evaluate(run, snapshot, trunk, head, candidate)
