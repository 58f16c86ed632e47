"""How a run shows in Prefect: its name says model, snapshot and verdict, and its state has the verdict's name."""

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
CUT = "Cut"  # the name of the state in which a run that was stopped in order waits for its next start
MAX_DEATHS = 5
DIED = "The process died; the run goes on where it was."
GIVEN_UP = (
    f"the process of this run died {MAX_DEATHS} times, so it is not started again; the usual reason is memory: "
    "see what the worker and its machine logged, then run it again by hand"
)
SNAPSHOT_DIGITS = 8


def check_restarts() -> None:
    """Raises HeadstartError where the run's process died time and again: an automation starts it after each crash."""
    if (flow_run.run_count or 0) <= MAX_DEATHS:
        return  # so nearly every run need not ask
    with get_client(sync_client=True) as client:
        history = client.read_flow_run_states(flow_run.id)  # type: ignore[arg-type]
    if deaths(history) >= MAX_DEATHS:
        raise HeadstartError(GIVEN_UP)


def deaths(history: Iterable[State]) -> int:
    """How often the process of a run with these states, oldest first, died since it was last stopped in order."""
    since = takewhile(lambda state: state.name != CUT, reversed(list(history)))
    return sum(state.is_crashed() for state in since)


def ended(summary: dict[str, Any]) -> State[dict[str, Any]]:
    """The state that a run with this summary ends in; gives the run its name."""
    verdict = summary["verdict"]
    version = f" v{summary['version']}" if summary["version"] else ""
    snapshot = f" · {summary['snapshot'][:SNAPSHOT_DIGITS]}" if summary["snapshot"] else ""
    _rename(f"{summary['name']}{version}{snapshot} · {verdict}")
    return Completed(name=STATES[verdict], message="; ".join(summary["reasons"]), data=summary)


def _rename(name: str) -> None:
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, name=name)  # type: ignore[arg-type]
    except Exception as exc:  # noqa: BLE001 - no model is lost for a name
        log.warning("the run could not be named %r: %s", name, exc)
