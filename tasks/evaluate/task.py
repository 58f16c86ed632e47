"""The evaluation stage as a Prefect task."""

from __future__ import annotations

from tasks import keras_process
from tasks.artifacts import GateDecision, HeadRef, ModelRef, Run, SnapshotRef, TrunkRef
from tasks.evaluate.parity import make_reference
from tasks.evaluate.stage import evaluate
from tasks.task import stage


@stage("evaluate", kept=True)
def evaluate_candidate(
    run: Run, snapshot: SnapshotRef, trunk: TrunkRef, head: HeadRef, candidate: ModelRef
) -> GateDecision:
    """The gates' decision on the candidate's file. A refusal is a value, not a failure."""
    return evaluate(run, snapshot, trunk, head, candidate)


@stage("reference")
def make_parity_reference(run: Run, snapshot: SnapshotRef, trunk: TrunkRef) -> int:
    """What the candidate's file will be compared with, as far as it does not depend on the head."""
    return keras_process.call(make_reference, run, snapshot, trunk)
