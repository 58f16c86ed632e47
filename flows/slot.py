"""One run of a model at a time, also where its workspace is an object store, which knows no locks.

There Prefect's server holds a slot for each model and workspace: a plain script is covered as well as a deployment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from tasks.errors import WorkspaceError
from tasks.records import Run
from tasks.runs import is_locked

# A run that died gives its slot back after this time; one that lives renews it.
LEASE_S = 60


@contextmanager
def one_slot(run: Run, timeout_s: float = 3600) -> Iterator[None]:
    """Holds the model's slot on Prefect's server, for a workspace without locks. `tasks.runs.one_at_a_time` has others.

    Raises:
        WorkspaceError: another run holds it for longer than `timeout_s`.
    """
    if run.workspace.is_local:
        yield
        return
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(slot_name(run), 1)
    slot = concurrency(
        slot_name(run),
        timeout_seconds=timeout_s,
        lease_duration=LEASE_S,
        strict=True,  # else a limit that is gone would be none
        raise_on_lease_renewal_failure=False,  # a server that restarts must not end a run that is well
    )
    try:
        slot.__enter__()
    except TimeoutError:
        raise WorkspaceError(
            f"another retrain of {run.name} has held the limit {slot_name(run)!r} on Prefect's server for "
            f"{timeout_s:.0f} s; run again when it is done"
        ) from None
    try:
        yield
    finally:
        slot.__exit__(None, None, None)


def is_under_way(run: Run, client: SyncPrefectClient) -> bool:
    """Whether a run of this model is reading or working now."""
    if run.workspace.is_local:
        return is_locked(run.workspace, run.name)
    try:
        return client.read_global_concurrency_limit_by_name(slot_name(run)).active_slots > 0
    except ObjectNotFound:  # there was no run yet
        return False


def slot_name(run: Run) -> str:
    """Another for each workspace: two of them may have models of one name."""
    return f"headstart-{run.name}-{hashlib.sha256(run.workspace.url.encode()).hexdigest()[:12]}"
