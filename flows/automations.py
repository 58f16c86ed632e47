"""The automations of deploy/automations, put on a Prefect server: recovery from crashes, and notifications.

They are Prefect's own (`prefect automation create --from-file` takes the files, too); this command can be given again,
and makes the block that holds the webhook's address.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import yaml
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import PrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore
from pydantic import SecretStr

FOLDER = Path(__file__).parents[1] / "deploy" / "automations"
WEBHOOK_BLOCK = "headstart-webhook"


def apply_automations(webhook: str | None = None, silence_s: int | None = None) -> list[str]:
    """Creates the automations, or brings those of these names up to date. Returns their names.

    Args:
        webhook: the address that notifications are posted to; None leaves those out, or as they are.
        silence_s: seconds without a heartbeat after which a run counts as crashed; None takes the file's. A minute
            later, a run is scheduled again that nothing else has started again.
    """
    return asyncio.run(_apply(webhook, silence_s))


async def _apply(webhook: str | None, silence_s: int | None) -> list[str]:
    wanted = recovery(silence_s)
    if webhook:
        block = Webhook(url=SecretStr(webhook))
        identity = await block.save(WEBHOOK_BLOCK, overwrite=True)  # type: ignore[misc]
        notify = _read("notify.yaml")
        for automation in notify:
            automation["actions"][0]["block_document_id"] = str(identity)
        wanted += notify
    async with get_client() as client:
        for automation in wanted:
            await _put(client, AutomationCore.model_validate(automation))
    return [automation["name"] for automation in wanted]


def recovery(silence_s: int | None) -> list[dict[str, Any]]:
    """The automations that start crashed runs again; those that wait for a sign of life do so in the file's order."""
    automations = _read("recovery.yaml")
    waiting = [automation["trigger"] for automation in automations if automation["trigger"]["posture"] == "Proactive"]
    first_s = min(trigger["within"] for trigger in waiting)
    for trigger in waiting:
        trigger["within"] += (silence_s or first_s) - first_s
    return automations


def _read(file: str) -> list[dict[str, Any]]:
    return yaml.safe_load((FOLDER / file).read_text(encoding="utf-8"))["automations"]


async def _put(client: PrefectClient, automation: AutomationCore) -> None:
    there = await client.read_automations_by_name(automation.name)
    if there:
        await client.update_automation(there[0].id, automation)
    else:
        await client.create_automation(automation)
