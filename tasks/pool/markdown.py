"""The page of a batch as Prefect shows it: counts, where the files lie, and the first items of each reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.modality.wording import worded
from tasks.pool.batches import read_batch
from tasks.pool.page import MEANINGS
from tasks.records import Batch, Pool, Run
from tasks.report.markdown import escape
from tasks.report.numbers import count, percent
from tasks.report.thumbnails import preview

SHOWN = 12  # of each reason
PICTURE_PX = 96


def batch_markdown(run: Run, pool: Pool, batch: Batch) -> str:
    """Markdown that shows images as `data:` URIs, and texts in words."""
    rows = read_batch(run.workspace, batch.folder)
    task = run.config.task
    parts = [
        f"# {count(batch.images)} {task}s of {escape(run.name)} to label",
        f"Of {count(pool.images)} {task}s in {escape(run.source)}, by version {pool.version}; "
        f"{count(pool.faults)} files could not be used.",
        *(f"- {kind}: `{run.workspace.display(batch.path(suffix))}`" for kind, suffix in FILES.items()),
        f"`headstart next {run.name} --to FILE.json` fetches the batch.",
    ]
    for reason in (reason for reason, number in batch.reasons.items() if number):
        lines = [f"| {task} | likeliest | then | from |", "| --- | --- | --- | --- |"]
        lines += [_row(row) for row in rows[rows["reason"] == reason].head(SHOWN).to_dict("records")]
        title = f"## {reason.capitalize()} ({count(batch.reasons[reason])})"
        parts += [title, worded(MEANINGS[reason], task), "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _row(row: Mapping[Any, Any]) -> str:
    """One item in a line of the table, with its two likeliest classes and its path in the pool."""
    item = preview(row["uri"], PICTURE_PX)
    shown = escape(item.get("text", "-"))
    if "picture" in item:
        shown = f"![{escape(row['path'])}]({item['picture']})"
    first = f"{escape(row['label'])} {percent(row['probability'])}"
    second = f"{escape(row['second_label'])} {percent(row['second_probability'])}"
    return f"| {shown} | {first} | {second} | {escape(row['path'])} |"


FILES = {"Label Studio": ".json", "table": ".csv", "page": ".html"}
