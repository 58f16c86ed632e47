"""The feature extraction stage as Prefect tasks: one for the plan, one for each shard."""

from __future__ import annotations

from tasks.artifacts import FeaturesRef, Run, SnapshotRef, TrunkRef
from tasks.augment.policy import Policy
from tasks.backbones.trunk import trunk_of
from tasks.extract import plan
from tasks.extract.export import ensure_exported
from tasks.progress import Progress
from tasks.task import stage


@stage("extract")
def extract_features(run: Run, snapshot: SnapshotRef, policy: Policy) -> tuple[TrunkRef, FeaturesRef]:
    """Embeds the images of a snapshot that have no row yet, shard by shard."""
    trunk_ref = trunk_of(run, policy)
    todo = plan.missing_tasks(run, snapshot, trunk_ref, policy)
    ensure_exported(run, trunk_ref)
    with Progress("extract", len(todo), "images") as progress:
        for number, shard in enumerate(plan.cut(todo, run.config.extract.shard_images)):
            embed_shard.with_options(task_run_name=f"extract-shard-{number}")(
                run, trunk_ref, policy, shard, progress.advance
            )
    features = FeaturesRef(recipe=trunk_ref.recipe, views=policy.views, embedded=len(todo))
    return trunk_ref, features


@stage("extract-shard")
def embed_shard(run, trunk_ref, policy, shard, on_image) -> int:
    """One shard: retried by itself, written as one part."""
    return plan.embed_shard(run, trunk_ref, policy, shard, on_image)
