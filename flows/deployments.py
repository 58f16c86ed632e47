"""The deployments of a model, as deploy/prefect.yaml declares them for workers and for `headstart up` alike."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

import yaml
from prefect import Flow
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import DeploymentEventTrigger
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from flows.next import choose_next
from flows.retrain import retrain
from tasks.errors import UsageError
from tasks.records import Run

NIGHTLY = "0 3 * * *"


FLOWS: dict[str, Flow[..., Any]] = {
    "flows/retrain.py:retrain": retrain,
    "flows/next.py:choose_next": choose_next,
}


def deployments(run: Run, cron: str, pool: str = "") -> Iterator[tuple[Flow[..., Any], dict[str, Any]]]:
    """The deployments of a model: retrains on new labels, by the clock and by hand, and the choice of what to label
    next; each with its flow, as `Flow.to_deployment` takes it.

    Args:
        cron: when the retrain by the clock runs, in place of the declared time.
        pool: images without labels; where there are none, whoever starts the choice names them.

    Raises:
        UsageError: `cron` is no schedule.
    """
    try:
        CronSchedule(cron=cron)
    except ValueError as exc:
        raise UsageError(f"--nightly takes a cron line, such as {NIGHTLY!r}; found {cron!r}") from exc
    text = files("deploy").joinpath("prefect.yaml").read_text(encoding="utf-8")
    variables = {"HEADSTART_NAME": run.name, "HEADSTART_SOURCE": run.source, "HEADSTART_WORKSPACE": run.workspace.url}
    variables["HEADSTART_POOL"] = pool
    # What was set, and no defaults: of a section without such a key the form in the UI shows one line.
    given = run.config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for declared in _filled(yaml.safe_load(text)["deployments"], variables):
        yield (
            FLOWS[declared["entrypoint"]],
            {
                "name": declared["name"],
                "description": declared["description"],
                "tags": declared["tags"],
                "parameters": declared["parameters"] | {"config": given},
                "triggers": [DeploymentEventTrigger.model_validate(each) for each in declared.get("triggers", [])],
                "schedules": [Cron(cron) for _ in declared.get("schedules", [])],
                "concurrency_limit": ConcurrencyLimitConfig.model_validate(declared["concurrency_limit"]),
                "entrypoint_type": EntrypointType.MODULE_PATH,
            },
        )


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    """Fills in Prefect's placeholders `{{ $NAME }}`; those of another kind stay."""
    if isinstance(value, dict):
        return {key: _filled(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, variables) for item in value]
    if isinstance(value, str):
        return re.sub(r"\{\{ \$(\w+) \}\}", lambda found: variables.get(found[1], ""), value)
    return value
