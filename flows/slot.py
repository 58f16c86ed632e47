"""One run of a model at a time, however runs are started.

In a local workspace a lock of the operating system holds it, which goes with the process. An object store knows no
locks: there Prefect's server holds a slot for each model and workspace. (The deployments' own limit of one only keeps
waiting runs from being processes.)
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
from tasks.runs import one_at_a_time as _lock

# The slot of a run that crashed is free again after this time; a living run renews it.
LEASE_S = 60


@contextmanager
def one_run_at_a_time(run: Run, timeout_s: float = 3600) -> Iterator[None]:
    """Keeps every other run of this model in this workspace waiting, for as long as the block lasts.

    Raises:
        WorkspaceError: another run, or a cleaning, keeps this one waiting for longer than `timeout_s`.
    """
    with _lock(run, timeout_s) if run.workspace.is_local else _slot(run, timeout_s):
        yield


@contextmanager
def _slot(run: Run, timeout_s: float) -> Iterator[None]:
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(slot_name(run), 1)
    slot = concurrency(
        slot_name(run),
        timeout_seconds=timeout_s,
        lease_duration=LEASE_S,
        strict=True,  # without it, a limit that was deleted would not limit
        raise_on_lease_renewal_failure=False,  # a restart of the server must not end a healthy run
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
    """Whether a run of this model is active now."""
    if run.workspace.is_local:
        return is_locked(run.workspace, run.name)
    try:
        return client.read_global_concurrency_limit_by_name(slot_name(run)).active_slots > 0
    except ObjectNotFound:  # there was no run yet
        return False


def slot_name(run: Run) -> str:
    """The limit's name; it differs between workspaces, since two of them may have models of one name."""
    return f"headstart-{run.name}-{hashlib.sha256(run.workspace.url.encode()).hexdigest()[:12]}"
