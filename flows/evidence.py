"""More evidence between champion and challenger, where the frozen test split is too small to decide."""

from __future__ import annotations

from tasks.evaluate.task import weigh_all_images
from tasks.finetune.task import cross_fit_heads
from tasks.records import Decision, Run
from tasks.storage.lineage import trained_from


def ask_all_images(run: Run, decision: Decision) -> Decision:
    """Cross-fits both models, and decides by all images.

    The champion's cross-fitted predictions are kept with its run; where they are not, they are made here.
    """
    features = decision.candidate.head.features
    before = decision.champion_version and trained_from(run, decision.champion_version, features.extractor)
    champion = cross_fit_heads(*before) if before else None
    return weigh_all_images(run, decision, cross_fit_heads(run, features), champion)
