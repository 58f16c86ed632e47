"""The validate stage as Prefect tasks: the suite over the images, and the review of their labels by features."""

from __future__ import annotations

from tasks.orchestration import stage
from tasks.records import Catalogue, Features, Review, Run
from tasks.validate import review, validation


@stage("validate", reads=validation.rules)
def validate_images(run: Run, catalogue: Catalogue) -> Catalogue:
    """Runs the Great Expectations suite, quarantines what it rejects, and stops where it must."""
    return validation.validate(run, catalogue)


@stage("review", reads=review.rules)
def review_images(run: Run, features: Features) -> Review:
    """Ranks the labels by doubt, looks for copies and measures drift, by features."""
    return review.review_snapshot(run, features)
