"""The fine-tuning stage as a Prefect task."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import FeaturesRef, HeadRef, Run, SnapshotRef
from tasks.finetune.stage import finetune
from tasks.progress import Progress
from tasks.retry import is_transient


@task(
    name="finetune",
    retries=1,
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def finetune_head(run: Run, snapshot: SnapshotRef, features: FeaturesRef) -> HeadRef:
    """Trains the head on stored features."""
    with Progress("finetune", run.config.finetune.epochs, "epochs") as progress:
        return finetune(run, snapshot, features, lambda epoch, logs: progress.advance())
