"""The export stage as Prefect tasks."""

from __future__ import annotations

from tasks.export.model import export_model
from tasks.export.variants import export_variants
from tasks.networks import keras_process
from tasks.orchestration import stage
from tasks.records import Candidate, FeatureExtractor, Head, Run, Snapshot, Variant


@stage("export", kept=True)
def export_candidate(run: Run, snapshot: Snapshot, extractor: FeatureExtractor, head: Head, version: int) -> Candidate:
    """model.onnx under the version that it will have if the gates promote it."""
    return keras_process.call(export_model, run, snapshot, extractor, head, version)


@stage("variants", kept=True)
def make_variants(
    run: Run, snapshot: Snapshot, extractor: FeatureExtractor, candidate: Candidate
) -> tuple[Variant, ...]:
    """The promoted model in the other precisions that the configuration asks for, measured."""
    return export_variants(run, snapshot, extractor, candidate)
