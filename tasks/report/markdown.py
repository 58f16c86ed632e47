"""The model card, and the shorter markdown that Prefect shows on the run's page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.report.changes import data_changes
from tasks.report.evidence import Evidence
from tasks.report.numbers import bounds, count, duration, figure, interval, percent, points
from tasks.report.outlook import outlook
from tasks.report.statistics import most_confused, wilson_interval

SIGNS = {True: "✓ passed", False: "✕ failed", None: "– not applicable"}
HEADLINES = {
    "promoted": "✓ Promoted",
    "refused": "✕ Refused",
    "unchanged": "= Unchanged",
    "invalid-data": "! Invalid data",
}

FRONT_MATTER = """\
---
library_name: onnx
pipeline_tag: image-classification
tags: [transfer-learning, headstart]
---"""

USE = """\
The model takes decoded images and nothing else: resizing and normalisation are inside it.

```python
import numpy as np, onnxruntime as ort
from PIL import Image, ImageOps

session = ort.InferenceSession("model.onnx")
image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
probabilities, label = session.run(["probabilities", "label"], {"image": np.asarray(image)[None]})
```"""


def escape(value: Any) -> str:
    """A user's text, safe inside a line or a table cell of markdown, and inert as HTML."""
    flat = re.sub(r"\s+", " ", str(value))
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|#~])", r"\\\1", flat)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A markdown table; each cell is escaped."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(escape(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def decision_markdown(evidence: Evidence) -> str:
    """Verdict, reasons, key figures and gates: what a person wants on the run's page."""
    parts = [
        f"# {_headline(evidence)}: {escape(evidence.run.name)}{_version(evidence)}",
        _override(evidence),
        _bullets(evidence.reasons),
        _metrics_table(evidence),
        _gates_table(evidence),
        _confused_table(evidence),
    ]
    report = evidence.run.workspace.display(evidence.run.path("report.html"))
    parts.append(f"The whole report: `{report.replace('`', '')}`")
    return "\n\n".join(part for part in parts if part) + "\n"


def gate_rows(evidence: Evidence) -> list[dict[str, str]]:
    """The gates as rows of text, for a table artifact."""
    return [
        {
            "gate": str(gate["name"]),
            "result": SIGNS[gate.get("passed")],
            "value": figure(gate.get("value")),
            "interval": bounds(gate.get("interval")) or "–",
            "threshold": figure(gate.get("threshold")),
            "reason": str(gate.get("reason") or ""),
            "evidence": str(gate.get("evidence") or ""),
        }
        for gate in evidence.decision.get("gates") or []
    ]


def model_card(evidence: Evidence) -> str:
    """The model card (Mitchell et al. 2019), as model hubs read it: front matter, then markdown."""
    sections = [
        FRONT_MATTER,
        f"# {escape(evidence.run.name)}{_version(evidence)}",
        f"**{_headline(evidence)}** by run `{evidence.run.run_id}` of {evidence.run.started_at[:10]}.",
        _override(evidence),
        _bullets(evidence.reasons),
        "## What it does\n\n" + _purpose(evidence),
        "## How to use it\n\n" + USE,
        "## How good it is\n\n" + (_metrics_table(evidence) or "No model was evaluated in this run."),
        _section("Gates", _gates_table(evidence)),
        _section("Where it errs", _confused_table(evidence)),
        _section("Per class", _per_class_table(evidence)),
        _section("Can its probabilities be believed", _calibration(evidence)),
        _section("Small changes of the picture", _robustness_table(evidence)),
        _section("Speed and size", _speed(evidence)),
        "## What it learned from\n\n" + _data(evidence),
        _section("What is new since the champion", _changes_table(evidence)),
        _section("Would more labels help", escape(outlook(evidence.learning_curve)) if evidence.learning_curve else ""),
        "## Limits\n\n" + _limits(evidence),
        _section("Lineage", _lineage(evidence)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)


def _version(evidence: Evidence) -> str:
    return f", version {evidence.version}" if evidence.version else ""


def _headline(evidence: Evidence) -> str:
    return "! Promoted by hand" if evidence.override else HEADLINES.get(evidence.verdict, "No verdict")


def override_sentence(override: Mapping[str, Any]) -> str:
    """Who published what the gates refused, and why."""
    return f"Published by {override['by']} on {override['at'][:10]}, against the gates: {override['reason']}"


def _override(evidence: Evidence) -> str:
    return f"> **{escape(override_sentence(evidence.override))}**" if evidence.override else ""


def _purpose(evidence: Evidence) -> str:
    labels = evidence.labels
    if not labels:
        return "It was not trained: see the verdict."
    named = ", ".join(escape(label) for label in labels[:50])
    more = f" and {len(labels) - 50} more" if len(labels) > 50 else ""
    return f"It sorts photographs into {len(labels)} classes: {named}{more}."


def _metrics_table(evidence: Evidence) -> str:
    rows = []
    for split, metrics in evidence.metrics.items():
        n = int(metrics.get("n") or 0)
        accuracy = metrics.get("accuracy")
        bounds = "–" if accuracy is None else interval(wilson_interval(accuracy * n, n))
        rows.append(
            (
                split,
                count(n),
                percent(accuracy),
                bounds,
                percent(metrics.get("macro_f1")),
                percent(metrics.get("ece")),
            )
        )
    head = ("split", "images", "accuracy", "95 % interval", "macro F1", "calibration error")
    return table(head, rows) if rows else ""


def _gates_table(evidence: Evidence) -> str:
    rows = [tuple(row.values()) for row in gate_rows(evidence)]
    head = ("gate", "result", "value", "95 % interval", "threshold", "reason", "evidence")
    return table(head, rows) if rows else ""


def _confused_table(evidence: Evidence) -> str:
    pairs = most_confused(evidence.judged, limit=5)
    rows = [(pair.label, pair.predicted, pair.count, percent(pair.share)) for pair in pairs]
    return table(("given label", "predicted", "images", "share of the class"), rows) if rows else ""


def _per_class_table(evidence: Evidence) -> str:
    rows = [
        (
            row["label"],
            count(row["n"]),
            percent(row["recall"]),
            interval((row["recall_low"], row["recall_high"])),
            percent(row.get("precision")),
        )
        for row in evidence.per_class
        if row.get("n") and row.get("recall") is not None
    ]
    return table(("class", "images", "recall", "95 % interval", "precision"), rows) if rows else ""


def _calibration(evidence: Evidence) -> str:
    errors = evidence.decision.get("calibration")
    if not errors:
        return ""
    return (
        f"What it claims and what comes true differ by {percent(errors['test'])} on average over the test images "
        f"({percent(errors['test_before'])} before a temperature of {figure(errors['temperature'])}; a perfectly "
        f"calibrated model would show {percent(errors['test_by_chance'])} on so many images). On validation, under "
        f"temperatures fitted on other images, by {percent(errors['validation_cross_fitted'])}."
    )


def _robustness_table(evidence: Evidence) -> str:
    rows = [
        (
            row["kind"],
            row["strength"],
            count(row["n"]),
            percent(row["accuracy_before"]),
            percent(row["accuracy"]),
            f"{points(row['drop'])} ({points(row['interval'][0])} to {points(row['interval'][1])})",
        )
        for row in evidence.decision.get("robustness") or []
    ]
    head = ("change", "strength", "images", "right before", "right after", "points lost (95 % interval)")
    return table(head, rows) if rows else ""


def _speed(evidence: Evidence) -> str:
    latency, size_bytes = evidence.decision.get("latency"), evidence.decision.get("size_bytes")
    if not latency:
        return ""
    low, high = latency["interval_ms"]
    return (
        f"model.onnx has {(size_bytes or 0) / 1e6:.1f} MB. On one thread of the machine that made it, 95 % of images "
        f"of {latency['image_size_px']} px take at most {latency['p95_ms']:.1f} ms ({low:.1f} to {high:.1f} ms, 95 % "
        f"interval, {latency['runs']} runs), half of them {latency['median_ms']:.1f} ms."
    )


def _changes_table(evidence: Evidence) -> str:
    if evidence.champion_snapshot is None or evidence.snapshot is None:
        return ""
    rows = [
        (row.label, *map(count, (row.before, row.now, row.new, row.gone, row.relabelled_in, row.relabelled_out)))
        for row in data_changes(evidence.champion_snapshot, evidence.snapshot)
        if row.changed
    ]
    head = ("class", "images before", "now", "new", "gone", "relabelled to it", "away from it")
    return table(head, rows) if rows else "The very same images, with the same labels."


def _data(evidence: Evidence) -> str:
    images = evidence.summary.get("images") or {}
    source = escape(evidence.run.source)
    if "total" not in images:
        return f"Source: {source}."
    quarantined = count(images.get("quarantined", 0))
    return f"{count(images['total'])} labelled images from {source}; {quarantined} files were quarantined."


def _limits(evidence: Evidence) -> str:
    lines = [
        "It always answers with one of its classes, also for a picture of something else.",
        "The figures hold for pictures like the test set's; of other cameras or places they say nothing.",
    ]
    few = [row for row in evidence.per_class if 0 < (row.get("n") or 0) < 30]
    if few:
        lines.append(
            f"{len(few)} of {len(evidence.per_class)} classes have fewer than 30 {evidence.judged_split} "
            "images, so their recalls are rough (see the intervals)."
        )
    return _bullets(lines)


def _lineage(evidence: Evidence) -> str:
    lineage = evidence.summary.get("lineage") or {}
    rows = [(key, value) for key, value in lineage.items() if not isinstance(value, dict)]
    rows += [(f"library {name}", version) for name, version in (lineage.get("libraries") or {}).items()]
    total_s = (evidence.summary.get("timings_s") or {}).get("total")
    if total_s is not None:
        rows.append(("whole run", duration(total_s)))
    return table(("what", "value"), rows) if rows else ""
