"""The feature extraction stage as Prefect tasks: one for the plan, one for each shard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from tasks.artifacts import FeaturesRef, Run, SnapshotRef, TrunkRef
from tasks.augment.policy import Policy
from tasks.backbones.trunk import trunk_of
from tasks.extract import plan
from tasks.extract.engine import Engine, Task, choose_engine
from tasks.extract.export import ensure_exported
from tasks.extract.quantise import quantised
from tasks.progress import Progress
from tasks.task import page_progress, spread, stage

_engines: dict[tuple[str, TrunkRef, str], Engine] = {}  # one at most: this process's last
_choosing = threading.Lock()


@stage("trunk")
def make_trunk(run: Run, snapshot: SnapshotRef, policy: Policy) -> TrunkRef:
    """Exports the trunk, and quantises it where that is asked for, if the workspace has no such file yet."""
    trunk = trunk_of(run, policy)
    ensure_exported(run, trunk)
    return quantised(run, trunk, snapshot) if run.config.backbone.precision == "int8" else trunk


@stage("extract")
def extract_features(run: Run, snapshot: SnapshotRef, trunk: TrunkRef, policy: Policy) -> FeaturesRef:
    """Embeds the images of a snapshot that have no row yet, shard by shard."""
    todo = plan.missing_tasks(run, snapshot, trunk, policy)
    shards = plan.cut(todo, run.config.extract.shard_images)
    shown = page_progress(run.name, "extract") if len(shards) > 1 else None
    done = 0
    with Progress("extract", len(todo), "images") as progress, spread(run.config.scale, len(shards)) as each:
        of_run = (run, trunk, policy) if each.here else (_one_thread(run), trunk, policy)
        on_image = progress.advance if each.here else None
        for images in each(embed_shard, [(*of_run, shard, on_image) for shard in shards]):
            done += images
            if on_image is None:
                progress.advance(images)
            if shown:
                shown(done / len(todo))
    return plan.features_of(trunk, policy, embedded=len(todo))


@stage("extract-shard")
def embed_shard(
    run: Run, trunk: TrunkRef, policy: Policy, shard: Sequence[Task], on_image: Callable[[], None] | None = None
) -> int:
    """One shard: retried by itself, written as one part. Returns how many images it has."""
    return plan.embed_shard(run, trunk, policy, _engine(run, trunk), shard, on_image or (lambda: None))


def _engine(run: Run, trunk: TrunkRef) -> Engine:
    """The engine of this process for the trunk: made for its first shard, here or in a Dask worker."""
    key = (run.workspace.url, trunk, run.config.extract.engine)
    with _choosing:
        if key not in _engines:
            _engines.clear()
            _engines[key] = choose_engine(run, trunk)
        return _engines[key]


def _one_thread(run: Run) -> Run:
    """The run as a Dask worker is given it, which does as many shards at a time as it has threads."""
    extract = run.config.extract.model_copy(update={"workers": 1})
    return replace(run, config=run.config.model_copy(update={"extract": extract}))
