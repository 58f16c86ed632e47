"""The evaluation stage as Prefect tasks."""

from __future__ import annotations

from tasks.evaluate.parity import make_reference
from tasks.evaluate.stage import evaluate, rules
from tasks.evaluate.thresholds import load_gates
from tasks.evaluate.weigh import weigh, weighed_by
from tasks.networks import keras_process
from tasks.orchestration import stage
from tasks.records import Candidate, CrossFitted, Decision, FeatureExtractor, Run, Snapshot


@stage("evaluate", reads=rules)
def evaluate_candidate(run: Run, candidate: Candidate) -> Decision:
    """The gates' decision on the candidate's file. A refusal is a value, not a failure."""
    return evaluate(run, candidate)


@stage("weigh", reads=weighed_by)
def weigh_all_images(run: Run, decision: Decision, challenger: CrossFitted, champion: CrossFitted | None) -> Decision:
    """The decision by all images, where the test split has too few to decide."""
    return weigh(run, decision, challenger, champion)


@stage("reference")
def make_parity_reference(run: Run, snapshot: Snapshot, extractor: FeatureExtractor) -> int:
    """What the candidate's file will be compared with, as far as it does not depend on the head."""
    images = load_gates(run.config.evaluate.gates, run.name).parity.images
    return keras_process.call(make_reference, run, snapshot, extractor, images)
