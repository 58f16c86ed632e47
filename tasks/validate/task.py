"""The validate stage as Prefect tasks: the suite of images, and the review of stored features."""

from __future__ import annotations

from tasks.orchestration import name_left_out, stage
from tasks.records import Catalogue, Features, Review, Run
from tasks.validate import review, validation


@stage("validate", reads=validation.rules)
def validate_images(run: Run, catalogue: Catalogue) -> Catalogue:
    """Runs the Great Expectations suite, quarantines rejected images, and may stop the run."""
    validated = validation.validate(run, catalogue)
    name_left_out(run, validated.folder)
    return validated


@stage("review", reads=review.rules)
def review_images(run: Run, features: Features) -> Review:
    """Finds label issues and near-duplicates, and measures drift, by features."""
    return review.review_snapshot(run, features)
