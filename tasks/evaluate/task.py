"""The evaluation stage as a Prefect task."""

from __future__ import annotations

from tasks.evaluate.parity import make_reference
from tasks.evaluate.stage import evaluate
from tasks.networks import keras_process
from tasks.orchestration import stage
from tasks.records import Candidate, Decision, FeatureExtractor, Head, Run, Snapshot


@stage("evaluate", kept=True)
def evaluate_candidate(
    run: Run, snapshot: Snapshot, extractor: FeatureExtractor, head: Head, candidate: Candidate
) -> Decision:
    """The gates' decision on the candidate's file. A refusal is a value, not a failure."""
    return evaluate(run, snapshot, extractor, head, candidate)


@stage("reference")
def make_parity_reference(run: Run, snapshot: Snapshot, extractor: FeatureExtractor) -> int:
    """What the candidate's file will be compared with, as far as it does not depend on the head."""
    return keras_process.call(make_reference, run, snapshot, extractor)
