"""The page of a batch as Prefect shows it: counts, where the files lie, and the first items of each reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.modality.wording import worded
from tasks.pool.batches import read_batch
from tasks.pool.page import MEANINGS
from tasks.records import Batch, Pool, Run
from tasks.report.cells import LETTERS, escape, narrowed
from tasks.report.numbers import count, percent
from tasks.report.thumbnails import preview

SHOWN = 12  # of each reason
PICTURE_PX = 96
PICTURE_LETTERS = 14  # that are as wide


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
        shown = rows[rows["reason"] == reason].head(SHOWN).to_dict("records")
        lines = [f"| {' | '.join(line)} |" for line in _table(shown, task)]
        title = f"## {reason.capitalize()} ({count(batch.reasons[reason])})"
        parts += [title, worded(MEANINGS[reason], task), "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Mapping[Any, Any]], task: str) -> list[list[str]]:
    """The lines of a table, each as its cells: an item, its two likeliest classes, and its path in the pool."""
    head = [task, "likeliest", "then", "from"]
    items = [preview(row["uri"], PICTURE_PX) for row in rows]
    cells = [
        [
            item.get("text", "-"),
            f"{row['label']} {percent(row['probability'])}",
            f"{row['second_label']} {percent(row['second_probability'])}",
            row["path"],
        ]
        for row, item in zip(rows, items, strict=True)
    ]
    lines = narrowed(head, cells, LETTERS - (PICTURE_LETTERS if task == "image" else 0))
    for line, row, item in zip(lines, rows, items, strict=True):
        if "picture" in item:
            line[0] = f"![{escape(row['path'])}]({item['picture']})"
    return [head, ["---"] * len(head), *lines]


FILES = {"Label Studio": ".json", "table": ".csv", "page": ".html"}
