"""The export stage as Prefect tasks."""

from __future__ import annotations

from tasks.export import familiar
from tasks.export.model import export_model
from tasks.export.variants import export_variants
from tasks.networks import keras_process
from tasks.orchestration import stage
from tasks.records import Candidate, Decision, FamiliarityBasis, Features, Head, Run, Variant


@stage("familiarity", reads=lambda run, features: [])
def fit_familiarity_basis(run: Run, features: Features) -> FamiliarityBasis:
    """Fits what the model's familiarity needs of the features, and tries it on classes that it does not know."""
    return familiar.fit_familiarity_basis(run, features)


@stage("export", reads=lambda run, head, basis, version: [run.name, run.config.export.familiar_share], version=5)
def export_candidate(run: Run, head: Head, basis: FamiliarityBasis, version: int) -> Candidate:
    """Writes model.onnx with the version that it will have if the gates promote it."""
    return keras_process.call(export_model, run, head, basis, version)


@stage("variants", reads=lambda run, decision: run.config.export)
def make_variants(run: Run, decision: Decision) -> tuple[Variant, ...]:
    """Makes and measures the promoted model in the other configured precisions."""
    return export_variants(run, decision)
