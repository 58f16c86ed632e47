"""The augmentation stage as a Prefect task."""

from __future__ import annotations

from tasks.modality.augmentation import Policy, policy_of
from tasks.orchestration import stage
from tasks.records import Run


@stage("augment")
def choose_policy(run: Run) -> Policy:
    """The checked augmentation policy; extraction applies it to each training image as it decodes it."""
    return policy_of(run.config)
