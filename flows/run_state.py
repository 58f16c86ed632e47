"""How a run shows in Prefect: its name says model, snapshot and verdict, and its state has the verdict's name."""

from __future__ import annotations

import logging
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from tasks.errors import HeadstartError

log = logging.getLogger(__name__)

# A refusal is an outcome, not a failure: every verdict completes the run.
STATES = {"promoted": "Promoted", "refused": "Refused", "unchanged": "Unchanged", "invalid-data": "InvalidData"}
MAX_STARTS = 5
SNAPSHOT_DIGITS = 8


def started() -> None:
    """Raises HeadstartError where the run's process died time and again: an automation starts it after each crash."""
    if (starts := flow_run.run_count or 0) > MAX_STARTS:
        raise HeadstartError(
            f"the process of this run died {starts - 1} times, so it is not started again; the usual reason is memory: "
            "see what the worker and its machine logged, then run it again by hand"
        )


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
