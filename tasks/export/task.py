"""The export stage as Prefect tasks."""

from __future__ import annotations

from tasks.export import familiar
from tasks.export.model import export_model
from tasks.export.variants import export_variants
from tasks.networks import keras_process
from tasks.orchestration import stage
from tasks.records import Candidate, Decision, Features, Head, Run, UnknownClasses, Variant


@stage("unknown", reads=lambda run, features: [])
def try_unknown_classes(run: Run, features: Features) -> UnknownClasses:
    """Measures how well the model's familiarity will tell classes that it does not know."""
    return familiar.try_unknown_classes(run, features)


@stage("export", reads=lambda run, head, unknown, version: [run.name, run.config.export.familiar_share], version=4)
def export_candidate(run: Run, head: Head, unknown: UnknownClasses, version: int) -> Candidate:
    """Writes model.onnx with the version that it will have if the gates promote it."""
    return keras_process.call(export_model, run, head, unknown, version)


@stage("variants", reads=lambda run, decision: run.config.export)
def make_variants(run: Run, decision: Decision) -> tuple[Variant, ...]:
    """Makes and measures the promoted model in the other configured precisions."""
    return export_variants(run, decision)
