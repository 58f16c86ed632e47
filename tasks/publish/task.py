"""The publishing stage as a Prefect task."""

from __future__ import annotations

from tasks.orchestration import stage
from tasks.publish.stage import publish
from tasks.records import Decision, Run, Variant
from tasks.storage.artifacts import current_artifacts


@stage("publish")
def publish_model(run: Run, decision: Decision, variants: tuple[Variant, ...] = ()) -> str:
    """The path of the published model.onnx."""
    return publish(run, decision, variants, current_artifacts())
