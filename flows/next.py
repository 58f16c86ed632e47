"""What to label next, as a flow: by hand or by the clock, on the pool of a published model."""

# No `from __future__ import annotations` here, as in flows/retrain.py.

import os
from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from flows.run_state import check_restarts
from flows.slot import one_run_at_a_time
from tasks.config import Config, with_environment
from tasks.errors import SourceError
from tasks.pool.batches import read_summary
from tasks.pool.listing import ALLOWED
from tasks.pool.stage import batch_run
from tasks.pool.task import choose_next_batch, see_pool
from tasks.runs import new_run
from tasks.workspace import NAME_PATTERN


@flow(name="next", flow_run_name="{name}", validate_parameters=True)
def choose_next(
    pool: str = "",
    name: Annotated[str, Field(pattern=f"^{NAME_PATTERN.pattern}$")] = "default",
    count: Annotated[int, Field(ge=1)] = 200,
    workspace: str = "./workspace",
    again: bool = False,
    config: Annotated[Config, Field(json_schema_extra={"default": {}})] = Config(),
) -> State[dict[str, Any]]:
    """Chooses the images or texts of a pool that are worth a person's time.

    Args:
        pool: Images or texts without labels: a folder, an fsspec URL, or a .csv, .jsonl or .parquet with a column path
            (or text).
        name: The model's name; it has to be published.
        count: Images or texts that can be labelled.
        workspace: Where everything is kept. A folder, or an fsspec URL.
        again: Hand out again what was handed out before.
        config: Everything that shapes the result; of it, the sections label, ingest and extract count here.

    Returns:
        What `headstart next --json` prints, but for the paths of the files.
    """
    check_restarts()
    if not pool:
        raise SourceError(f"no pool is given; {ALLOWED}")
    run = new_run(pool, name, workspace, with_environment(config, os.environ))
    with one_run_at_a_time(batch_run(run)):
        batch = choose_next_batch(run, see_pool(run), count, again)
    summary = read_summary(run.workspace, batch.folder)
    return Completed(message=f"{batch.images} {summary['items']} to label", data=summary)
