"""What a run came to, as a person reads it at the end: one line for each thing, and what to do next."""

from __future__ import annotations

import shutil
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from flows.summary import TASKS
from tasks.modality.wording import worded
from tasks.networks.intervals import wilson_interval
from tasks.runs import task_of
from tasks.storage.quarantine import FILE, QuarantineEntry, count_by_reason, disputed, read_entries, reason_kind
from tasks.workspace import Workspace

LABEL_WIDTH = 12
WHOLE = ("model", "report", "next")  # rows of paths and commands
WEAKEST_CLASSES, REASONS = 3, 3


def verdict_text(summary: dict[str, Any], workspace: Workspace) -> str:
    """The summary of a run as aligned lines, as wide as the terminal."""
    folder = f"runs/{summary['run_id']}"
    decision = workspace.read_json(f"{folder}/decision.json") if workspace.exists(f"{folder}/decision.json") else {}
    left_out = read_entries(workspace, f"{folder}/{FILE}") if summary["images"]["quarantined"] else []
    disputes = len(disputed(left_out))
    version = f" as version {summary['version']}" if summary["verdict"] == "promoted" else ""
    rows = [
        *(("because", reason) for reason in summary["reasons"][:1]),
        *(("", reason) for reason in summary["reasons"][1:]),
        ("accuracy", _accuracy(summary["metrics"], with_interval=bool(decision))),
        ("weakest", _weakest(decision)),
        ("images", _images(summary["images"], left_out)),
        ("labels", _labels(summary, disputes)),
        ("took", _took(summary["timings_s"])),
        ("model", summary["model"]),
        ("report", summary["report"]),
        ("next", "\n".join(_next(summary, decision, disputes))),
    ]
    task, names = task_of(summary), summary.get("labels") or ()
    lines = (
        _row(worded(label, task), text if label in WHOLE else worded(text, task, names)) for label, text in rows if text
    )
    return "\n".join([f"{summary['name']}: {summary['verdict']}{version}", *lines])


def _row(label: str, text: str) -> str:
    """A path or a command stays in one line, to be copied."""
    start = f"  {label:<{LABEL_WIDTH}}"
    if label in WHOLE:
        return start + text.replace("\n", "\n" + " " * len(start))
    width = max(shutil.get_terminal_size().columns, 40)
    return textwrap.fill(text, width, initial_indent=start, subsequent_indent=" " * len(start))


def _accuracy(metrics: dict[str, Any], with_interval: bool) -> str:
    """Of the judged model; the interval needs scipy, whose import a run with nothing new has not paid for."""
    test, validation = metrics.get("test") or {}, metrics.get("validation") or {}
    parts = []
    if test.get("n"):
        interval = ""
        if with_interval:
            low, high = wilson_interval(round(test["accuracy"] * test["n"]), test["n"])
            interval = f" (95 % interval {low:.3f} to {high:.3f})"
        parts.append(f"{test['accuracy']:.3f} on {test['n']} test images{interval}")
    if validation.get("n"):
        parts.append(f"{validation['accuracy']:.3f} on {validation['n']} validation images")
    return "; ".join(parts)


def _weakest(decision: dict[str, Any]) -> str:
    """The classes of which fewest test images are recognised; none where all are."""
    rows = [row for row in decision.get("per_class", {}).get("test", []) if row["n"] and row["recall"] < 1]
    rows.sort(key=lambda row: (row["recall"], -row["n"]))
    return ", ".join(
        f"{row['label']} ({round(row['recall'] * row['n'])} of {row['n']} recognised)" for row in rows[:WEAKEST_CLASSES]
    )


def _images(images: dict[str, Any], entries: Sequence[QuarantineEntry]) -> str:
    text = f"{images['total']:,}, {images['new']:,} new, {images['embedded']:,} passed through the network"
    if images["quarantined"]:
        kinds = Counter(reason_kind(entry.reason) for entry in entries)
        text += f"; {images['quarantined']:,} quarantined"
        text += f" ({count_by_reason(kinds, REASONS)})" if kinds else ""
    if left_out := images.get("left_out"):
        text += f"; {sum(left_out.values()):,} left out ({count_by_reason(left_out, REASONS)})"
    return text


def _labels(summary: dict[str, Any], disputes: int) -> str:
    """What people's corrections changed, and what is left to look at."""
    done = summary.get("corrections") or {"corrected": 0, "dropped": 0}
    parts = []
    if done["corrected"]:
        parts.append(f"{done['corrected']:,} label{'s' if done['corrected'] > 1 else ''} corrected")
    if done["dropped"]:
        parts.append(f"{done['dropped']:,} image{'s' if done['dropped'] > 1 else ''} dropped")
    looks = [f"{' and '.join(parts)} by corrections.csv"] if parts else []
    if issues := summary.get("label_issues"):
        looks.append(f"{issues:,} likely wrong")
    if disputes:
        looks.append(f"{disputes:,} image{'s' if disputes > 1 else ''} under several labels, left out until you decide")
    return "; ".join(looks)


def _took(timings: dict[str, float]) -> str:
    stages = sorted(
        ((spent, TASKS.get(stage, stage)) for stage, spent in timings.items() if stage != "total"), reverse=True
    )
    longest = ", ".join(f"{stage} {spent:.1f} s" for spent, stage in stages[:3] if spent >= 0.1)
    return f"{timings['total']:.1f} s{f' ({longest})' if longest else ''}"


def _next(summary: dict[str, Any], decision: dict[str, Any], disputes: int) -> Iterator[str]:
    name, run_id = summary["name"], summary["run_id"]
    doubtful = summary.get("label_issues") or disputes
    if summary["verdict"] in ("promoted", "unchanged"):
        item = "TEXT" if task_of(summary) == "text" else "PHOTO"
        yield f"headstart predict {name} {item}"
        yield f"headstart serve {name}"
        if doubtful:
            yield f"headstart review {name}   # labels that may be wrong"
    elif summary["verdict"] == "invalid-data":
        yield f"headstart quarantine list {name}"
    elif decision and all(gate["overridable"] for gate in decision["gates"] if gate["passed"] is False):
        yield f"open the report: it shows the mistakes; more labelled {task_of(summary)}s help most"
        if doubtful:
            yield f"headstart review {name}   # labels that may be wrong"
        yield f'headstart promote {run_id} --by YOU --reason "…"   # to publish it all the same'
    else:
        yield "open the report: it shows what the gates found"
