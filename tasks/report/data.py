"""The data of a run, for the report: images of each class and split, and their sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from tasks.records import SPLITS
from tasks.report import charts
from tasks.report.evidence import Evidence


def data(evidence: Evidence) -> dict[str, Any]:
    table = evidence.snapshot
    rows: list[dict[str, Any]] = []
    sizes: list[tuple[int, int]] = []
    if table is not None and {"label", "split"} <= set(table.column_names):
        counted = Counter(zip(table["label"].to_pylist(), table["split"].to_pylist(), strict=True))
        rows = _class_rows(counted)
        if {"width_px", "height_px"} <= set(table.column_names):
            sizes = list(zip(table["width_px"].to_pylist(), table["height_px"].to_pylist(), strict=True))
    return {
        "classes": rows,
        "splits": {split: sum(row[split] for row in rows) for split in SPLITS},
        "sizes": _sizes(sizes),
    }


def _class_rows(counted: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    labels = sorted({label for label, _ in counted})
    totals = {label: sum(counted[label, split] for split in SPLITS) for label in labels}
    largest = max(totals.values(), default=1) or 1
    return [
        {
            "label": label,
            "total": totals[label],
            **{split: counted[label, split] for split in SPLITS},
            "bar": charts.stacked_bar([(split, counted[label, split] / largest) for split in SPLITS]),
        }
        for label in sorted(labels, key=lambda label: (-totals[label], label))
    ]


def _sizes(sizes: Sequence[tuple[int, int]]) -> str | None:
    if not sizes:
        return None
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    width, height = round(median(w for w, _ in sizes)), round(median(h for _, h in sizes))
    smallest, largest = by_area[0], by_area[-1]
    return (
        f"median {width} × {height} px, from {smallest[0]} × {smallest[1]} to {largest[0]} × {largest[1]}"
        if smallest != largest
        else f"all {width} × {height} px"
    )
