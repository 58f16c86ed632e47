"""The export stage as Prefect tasks."""

from __future__ import annotations

from tasks.export.model import export_model
from tasks.export.variants import export_variants
from tasks.networks import keras_process
from tasks.orchestration import stage
from tasks.records import Candidate, Decision, Head, Run, Variant


@stage("export", reads=lambda run, head, version: [run.name, run.config.export.familiar_share], version=3)
def export_candidate(run: Run, head: Head, version: int) -> Candidate:
    """Writes model.onnx with the version that it will have if the gates promote it."""
    return keras_process.call(export_model, run, head, version)


@stage("variants", reads=lambda run, decision: run.config.export)
def make_variants(run: Run, decision: Decision) -> tuple[Variant, ...]:
    """Makes and measures the promoted model in the other configured precisions."""
    return export_variants(run, decision)
