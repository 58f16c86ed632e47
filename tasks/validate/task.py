"""The validate stage as a Prefect task."""

from __future__ import annotations

from tasks.orchestration import stage
from tasks.records import Catalogue, Features, Run, Snapshot
from tasks.validate.review import review_snapshot
from tasks.validate.validation import validate


@stage("validate", kept=True)
def validate_images(run: Run, catalogue: Catalogue) -> Catalogue:
    """Runs the Great Expectations suite, quarantines what it rejects, and stops where it must."""
    return validate(run, catalogue)


@stage("review", kept=True)
def review_images(run: Run, snapshot: Snapshot, features: Features) -> int:
    """Ranks suspect labels, looks for copies and measures drift, by features; returns how many labels are suspect."""
    return review_snapshot(run, snapshot, features)
