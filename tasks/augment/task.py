"""The augmentation stage as a Prefect task."""

from __future__ import annotations

from tasks.modality.images.augmentation import Policy, policy_of
from tasks.orchestration import stage
from tasks.records import Run


@stage("augment")
def choose_policy(run: Run) -> Policy:
    """Checks the augmentation policy, which extraction applies to training images while it decodes them."""
    return policy_of(run.config)
