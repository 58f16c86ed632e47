"""The feature extraction stage as Prefect tasks: one for the plan, one for each shard."""

from __future__ import annotations

from tasks.artifacts import FeaturesRef, Run, SnapshotRef, TrunkRef
from tasks.augment.policy import Policy
from tasks.backbones.trunk import trunk_of
from tasks.extract import plan
from tasks.extract.engine import choose_engine
from tasks.extract.export import ensure_exported
from tasks.extract.quantise import quantised
from tasks.progress import Progress
from tasks.task import stage


@stage("extract")
def extract_features(run: Run, snapshot: SnapshotRef, policy: Policy) -> tuple[TrunkRef, FeaturesRef]:
    """Embeds the images of a snapshot that have no row yet, shard by shard."""
    trunk = trunk_of(run, policy)
    ensure_exported(run, trunk)
    if run.config.backbone.precision == "int8":
        trunk = quantised(run, trunk, snapshot)
    todo = plan.missing_tasks(run, snapshot, trunk, policy)
    engine = choose_engine(run, trunk) if todo else None
    with Progress("extract", len(todo), "images") as progress:
        for number, shard in enumerate(plan.cut(todo, run.config.extract.shard_images)):
            embed_shard.with_options(task_run_name=f"extract-shard-{number}")(
                run, trunk, policy, engine, shard, progress.advance
            )
    return trunk, plan.features_of(trunk, policy, embedded=len(todo))


@stage("extract-shard")
def embed_shard(run, trunk, policy, engine, shard, on_image) -> int:
    """One shard: retried by itself, written as one part."""
    return plan.embed_shard(run, trunk, policy, engine, shard, on_image)
