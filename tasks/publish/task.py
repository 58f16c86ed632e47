"""The publishing stage as a Prefect task."""

from __future__ import annotations

from tasks.orchestration import stage
from tasks.publish.stage import publish
from tasks.records import Candidate, Decision, FeatureExtractor, Head, Run, Snapshot, Variant


@stage("publish")
def publish_model(
    run: Run,
    snapshot: Snapshot,
    extractor: FeatureExtractor,
    head: Head,
    candidate: Candidate,
    decision: Decision,
    variants: tuple[Variant, ...] = (),
) -> str:
    """The path of the published model.onnx."""
    return publish(run, snapshot, extractor, head, candidate, decision, variants)
