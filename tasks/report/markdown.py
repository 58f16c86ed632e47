"""The model card, and the shorter markdown of a run's page in Prefect; their text is in `templates/*.md.j2`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import jinja2

from tasks.display import visible_lines
from tasks.modality.wording import worded
from tasks.networks.intervals import wilson_interval
from tasks.report.cells import escape, escaped, narrowed
from tasks.report.changes import data_changes
from tasks.report.evidence import Evidence
from tasks.report.forecast import forecast
from tasks.report.numbers import amount, bounds_in, count, duration, figure, interval, percent, points, rule_of
from tasks.report.pictures import choose_samples
from tasks.report.statistics import most_confused
from tasks.report.templating import TextWords
from tasks.report.thumbnails import preview
from tasks.report.words import opening

SIGNS = {True: "✓ passed", False: "✕ failed", None: "– not applicable"}
HEADLINES = {
    "promoted": "✓ Promoted",
    "refused": "✕ Refused",
    "unchanged": "= Unchanged",
    "invalid-data": "! Invalid data",
}
FEW_IMAGES = 30  # of a class, below which its recall is rough
Rows = list[tuple[Any, ...]]


def decision_markdown(evidence: Evidence, report_link: str = "") -> str:
    """Verdict, reasons, metrics and gates: what a person wants on the run's page.

    Args:
        report_link: where a browser that shows this finds the whole report.
    """
    report = evidence.run.workspace.display(evidence.run.path("report.html"))
    return _render("decision.md.j2", evidence, True, report_path=report.replace("`", ""), report_link=report_link)


def report_markdown(evidence: Evidence, sections: Mapping[str, str]) -> str:
    """The whole report as a page of Prefect: the model card without its front matter, and further sections.

    Args:
        sections: markdown by title.
    """
    _, _, card = model_card(evidence, narrow=True).split("---\n", 2)
    shown = "".join(f"## {title}\n\n{section}\n\n" for title, section in sections.items())
    return f"{card.strip()}\n\n{shown}".rstrip() + "\n"


def model_card(evidence: Evidence, *, narrow: bool = False) -> str:
    """The model card (Mitchell et al. 2019), as model hubs read it: front matter, then markdown.

    Args:
        narrow: with tables that fit into a page of Prefect.
    """
    return _render(
        "model_card.md.j2",
        evidence,
        narrow,
        per_class=_per_class(evidence),
        calibration=evidence.decision.get("calibration"),
        robustness=_robustness(evidence),
        latency=evidence.decision.get("latency"),
        megabytes=(evidence.decision.get("size_bytes") or 0) / 1e6,
        images=evidence.summary.get("images") or {},
        changes=_changes(evidence),
        forecast=worded(forecast(evidence.learning_curve), evidence.run.config.task, evidence.labels)
        if evidence.learning_curve
        else "",
        limits=_limits(evidence),
        lineage=_lineage(evidence),
    )


def text_samples(evidence: Evidence) -> str:
    """A table of some judged texts with their predictions, as `sample_picture` shows images; empty
    in a run without any."""
    head = ("text", "predicted", "probability", "label")
    rows = [
        (
            preview(p.uri).get("text", p.path),
            f"{'✓' if p.correct else '✕'} {p.predicted}",
            percent(p.probability),
            p.label,
        )
        for p in choose_samples(evidence.judged)
    ]
    lines = [f"| {' | '.join(row)} |\n" for row in narrowed(head, rows)]
    return f"| {' | '.join(head)} |\n| --- | --- | --- | --- |\n" + "".join(lines) if lines else ""


def gate_rows(evidence: Evidence) -> list[dict[str, str]]:
    """The gates as rows of text."""

    def said(sentence: Any) -> str:
        return worded(str(sentence or ""), evidence.run.config.task, evidence.labels)

    return [
        {
            "gate": worded(str(gate["name"]), evidence.run.config.task),
            "result": SIGNS[gate.get("passed")],
            "value": amount(gate.get("value"), gate.get("unit") or ""),
            "interval": bounds_in(gate.get("interval"), gate.get("unit") or "") or "–",
            "rule": rule_of(gate),
            "reason": said(gate.get("reason")),
            "evidence": said(gate.get("evidence")),
        }
        for gate in evidence.decision.get("gates") or []
    ]


def override_sentence(override: Mapping[str, Any]) -> str:
    """Who published what the gates refused, and why."""
    return f"Published by {override['by']} on {override['at'][:10]}, against the gates: {override['reason']}"


def _render(template: str, evidence: Evidence, narrow: bool, **more: Any) -> str:
    confused = most_confused(evidence.judged, limit=5)
    text = (
        _environment(evidence.run.config.task, narrow)
        .get_template(template)
        .render(
            evidence=evidence,
            headline="! Promoted by hand" if evidence.override else HEADLINES.get(evidence.verdict, "No verdict"),
            version=f", version {evidence.version}" if evidence.version else "",
            opening=worded(opening(evidence), evidence.run.config.task, evidence.labels),
            override=override_sentence(evidence.override) if evidence.override else "",
            metrics=_metrics(evidence),
            gates=gate_rows(evidence),
            confused=[(pair.label, pair.predicted, pair.count, percent(pair.share)) for pair in confused],
            **more,
        )
    )
    return visible_lines(re.sub(r"\n{3,}", "\n\n", text).strip()) + "\n"


@cache
def _environment(task: str, narrow: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tasks.report"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        extensions=[TextWords] if task == "text" else [],
    )
    environment.filters["rows"] = narrowed if narrow else escaped
    environment.filters.update(said=partial(worded, task=task), md=escape, percent=percent, count=count, figure=figure)
    return environment


def _metrics(evidence: Evidence) -> Rows:
    rows: Rows = []
    for split, metrics in evidence.metrics.items():
        n, accuracy = int(metrics.get("n") or 0), metrics.get("accuracy")
        between = "–" if accuracy is None else interval(wilson_interval(round(accuracy * n), n))
        scores = (percent(accuracy), between, percent(metrics.get("macro_f1")), percent(metrics.get("ece")))
        rows.append((split, count(n), *scores))
    return rows


def _per_class(evidence: Evidence) -> Rows:
    return [
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


def _robustness(evidence: Evidence) -> Rows:
    return [
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


def _changes(evidence: Evidence) -> Rows | None:
    """None where there is nothing to compare with."""
    if evidence.champion_snapshot is None or evidence.snapshot is None:
        return None
    return [
        (row.label, *map(count, (row.before, row.now, row.new, row.gone, row.relabelled_in, row.relabelled_out)))
        for row in data_changes(evidence.champion_snapshot, evidence.snapshot)
        if row.changed
    ]


def _limits(evidence: Evidence) -> list[str]:
    lines = [
        worded(line, evidence.run.config.task)
        for line in (
            "It always predicts one of its classes, also for a picture of something else.",
            "The metrics hold for pictures like those of the test set, not for those of other sources.",
        )
    ]
    few = [row for row in evidence.per_class if 0 < (row.get("n") or 0) < FEW_IMAGES]
    if few:
        lines.append(
            f"{len(few)} of {len(evidence.per_class)} classes have fewer than {FEW_IMAGES} {evidence.judged_split} "
            f"{evidence.run.config.task}s, so their recalls are rough (see the intervals)."
        )
    return lines


def _lineage(evidence: Evidence) -> Rows:
    lineage = evidence.summary.get("lineage") or {}
    rows: Rows = [(key, value) for key, value in lineage.items() if not isinstance(value, dict)]
    rows += [(f"library {name}", version) for name, version in (lineage.get("libraries") or {}).items()]
    total_s = (evidence.summary.get("timings_s") or {}).get("total")
    return rows if total_s is None else [*rows, ("whole run", duration(total_s))]
