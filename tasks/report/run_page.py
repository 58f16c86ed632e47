"""The table of a model's history, for the run's page in Prefect."""

from __future__ import annotations

from itertools import islice
from typing import Any

from tasks.records import Run
from tasks.report.markdown import HEADLINES
from tasks.report.numbers import count, duration, percent
from tasks.runs import finished_runs

HISTORY = 20


def history_rows(run: Run) -> list[dict[str, str]]:
    """The model's finished runs, newest first, this one among them, as text.

    No more columns than Prefect's page has room for; a run's id begins with its time.
    """
    items = f"{run.config.task}s"
    return [_row(summary, items) for summary in islice(finished_runs(run.workspace, run.name), HISTORY)]


def _row(summary: dict[str, Any], items: str) -> dict[str, str]:
    test, images = summary["metrics"].get("test", {}), summary["images"]
    return {
        "verdict": HEADLINES[summary["verdict"]],
        "champion": f"version {summary['version']}" if summary["version"] else "–",
        "accuracy": percent(test.get("accuracy")),
        items: f"{count(images['total'])}, {count(images['new'])} new",
        "time": duration(summary["timings_s"]["total"]),
        "run": summary["run_id"],
    }
