"""The page of a batch, next.html: each image with the two likeliest classes and the labelled images that resemble it.

Self-contained, in the report's own style.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from tasks.display import visible_lines
from tasks.modality.wording import worded
from tasks.pool.selection import RANDOM, REASONS, UNFAMILIAR, UNSURE
from tasks.records import Pool, Run
from tasks.report.templating import page_environment
from tasks.report.thumbnails import nearest_previews, previews

SHOWN = 60  # of each reason, so that a page of a large batch stays small
SHOWN_FAULTS = 50
PICTURE_PX, NEAR_PX = 280, 112
MEANINGS = {
    UNSURE: "The model hesitates between two classes. A label here moves its boundary most; images that are alike are "
    "shown once.",
    UNFAMILIAR: "Nothing that was labelled resembles these: a new kind, another source, or no picture of the subject "
    "at all.",
    RANDOM: "Drawn by chance alone, so that the share of these that the model gets right is an honest estimate of its "
    "accuracy on the pool.",
}


def render_page(run: Run, pool: Pool, rows: pd.DataFrame, faults: Mapping[str, str]) -> str:
    """The page's HTML; every string of the user's is escaped by the template engine.

    Args:
        rows: see `tasks.pool.batches.SCHEMA`.
        faults: why files of the pool are left out, by path.
    """
    shown = rows.groupby("reason", sort=False).head(SHOWN)
    near = {uri for uris in shown["near_uris"] for uri in uris}
    pictures = previews(shown["uri"], PICTURE_PX)
    small = previews(near, NEAR_PX)
    groups = []
    for reason in REASONS:
        of_reason = rows[rows["reason"] == reason]
        cards = [_card(row, pictures, small) for row in shown[shown["reason"] == reason].to_dict("records")]
        groups.append(
            {
                "reason": reason,
                "meaning": worded(MEANINGS[reason], run.config.task),
                "total": len(of_reason),
                "cards": cards,
            }
        )
    return visible_lines(
        page_environment("tasks.pool", run.config.task)
        .get_template("next.html.j2")
        .render(
            run=run,
            pool=pool,
            total=len(rows),
            groups=[group for group in groups if group["total"]],
            faults=list(faults.items())[:SHOWN_FAULTS],
            more_faults=max(0, len(faults) - SHOWN_FAULTS),
        )
    )


def _card(
    row: Mapping[Any, Any], pictures: dict[str, dict[str, str]], small: dict[str, dict[str, str]]
) -> dict[str, Any]:
    near = list(zip(row["near_uris"], row["near_labels"], strict=True))
    return {
        "path": row["path"],
        **pictures[row["uri"]],
        "classes": [
            (row["label"], float(row["probability"])),
            (row["second_label"], float(row["second_probability"])),
        ],
        "near": nearest_previews(near, small),
    }
