"""What to label next as Prefect tasks, and its page as an artifact."""

from __future__ import annotations

import logging

from prefect.artifacts import create_markdown_artifact

from tasks.orchestration import artifact_key, stage
from tasks.pool.markdown import batch_markdown
from tasks.pool.stage import choose_batch, see
from tasks.records import Batch, Pool, Run

log = logging.getLogger(__name__)


@stage("pool")
def see_pool(run: Run) -> Pool:
    """Embeds the images of the run's source that the model has not seen yet."""
    return see(run)


@stage("next")
def choose_next_batch(run: Run, pool: Pool, count: int, again: bool) -> Batch:
    """Chooses the batch, writes its files and its page, and shows it in Prefect."""
    batch = choose_batch(run, pool, count, again)
    try:
        shown = batch_markdown(run, pool, batch)
        create_markdown_artifact(shown, key=artifact_key(run.name, "next"), description="What to label next")
    except Exception as exc:  # noqa: BLE001 - a page is not worth a failed run
        log.warning("the batch is not shown in Prefect: %s", exc)
    return batch
