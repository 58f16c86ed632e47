"""The page of a batch as Prefect shows it: counts, where the files lie, and the first images of each reason."""

from __future__ import annotations

from tasks.pool.batches import read_batch
from tasks.pool.page import MEANINGS
from tasks.records import Batch, Pool, Run
from tasks.report.markdown import escape
from tasks.report.numbers import count, percent
from tasks.report.thumbnails import thumbnail_uri

SHOWN = 12  # of each reason
PICTURE_PX = 96


def batch_markdown(run: Run, pool: Pool, batch: Batch) -> str:
    """Markdown whose pictures are `data:` URIs."""
    rows = read_batch(run.workspace, batch.folder)
    parts = [
        f"# {count(batch.images)} images of {escape(run.name)} to label",
        f"Of {count(pool.images)} images in {escape(run.source)}, by version {pool.version}; "
        f"{count(pool.faults)} files could not be used.",
        *(f"- {kind}: `{run.workspace.display(batch.path(suffix))}`" for kind, suffix in FILES.items()),
        f"`headstart next {run.name} --to FILE.json` fetches the batch.",
    ]
    for reason in (reason for reason, number in batch.reasons.items() if number):
        lines = ["| image | likeliest | then | file |", "| --- | --- | --- | --- |"]
        for row in rows[rows["reason"] == reason].head(SHOWN).to_dict("records"):
            picture = thumbnail_uri(row["uri"], PICTURE_PX)
            image = f"![{escape(row['path'])}]({picture})" if picture else "-"
            first = f"{escape(row['label'])} {percent(row['probability'])}"
            second = f"{escape(row['second_label'])} {percent(row['second_probability'])}"
            lines.append(f"| {image} | {first} | {second} | {escape(row['path'])} |")
        parts += [f"## {reason.capitalize()} ({count(batch.reasons[reason])})", MEANINGS[reason], "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


FILES = {"Label Studio": ".json", "table": ".csv", "page": ".html"}
