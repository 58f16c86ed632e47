"""How a run appears in Prefect: it is named by model, snapshot and verdict, and its state is the verdict."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import takewhile
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from tasks.errors import HeadstartError

log = logging.getLogger(__name__)

# A refusal is an outcome, not a failure: every verdict completes the run.
STATES = {"promoted": "Promoted", "refused": "Refused", "unchanged": "Unchanged", "invalid-data": "InvalidData"}
INTERRUPTED = "Interrupted"  # the state of a run that `headstart up` stopped, until it is started again
MAX_CRASHES = 5
RESUMED = "The process crashed; the run resumes."
GIVEN_UP = (
    f"the process of this run crashed {MAX_CRASHES} times, so it is not started again; the usual reason is memory: "
    "see the logs of the worker and of its machine, then run it again by hand"
)
SNAPSHOT_DIGITS = 8


def check_restarts() -> None:
    """Raises HeadstartError where the run crashed too often: an automation starts it again after each crash."""
    if (flow_run.run_count or 0) <= MAX_CRASHES:
        return  # which holds for nearly every run, and needs no request
    with get_client(sync_client=True) as client:
        history = client.read_flow_run_states(flow_run.id)  # type: ignore[arg-type]
    if crashes(history) >= MAX_CRASHES:
        raise HeadstartError(GIVEN_UP)


def crashes(history: Iterable[State]) -> int:
    """How often a run with these states, oldest first, crashed since it was last stopped by `headstart up`."""
    since = takewhile(lambda state: state.name != INTERRUPTED, reversed(list(history)))
    return sum(state.is_crashed() for state in since)


def ended(summary: dict[str, Any]) -> State[dict[str, Any]]:
    """Names the run after its result, and returns the state that it ends in."""
    verdict = summary["verdict"]
    snapshot = f" · {summary['snapshot'][:SNAPSHOT_DIGITS]}" if summary["snapshot"] else ""
    if verdict == "promoted":
        outcome = f"promoted as v{summary['version']}"
    else:
        outcome = verdict + (f", v{summary['version']} stays" if summary["version"] else "")
    _rename(f"{summary['name']}{snapshot} · {outcome}")
    return Completed(name=STATES[verdict], message="; ".join(summary["reasons"]), data=summary)


def _rename(name: str) -> None:
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, name=name)  # type: ignore[arg-type]
    except Exception as exc:  # noqa: BLE001 - a name is not worth a failed run
        log.warning("the run could not be named %r: %s", name, exc)
