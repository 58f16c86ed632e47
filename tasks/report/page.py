"""The report as one self-contained HTML page, and the model card beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jinja2

from tasks.display import visible_lines
from tasks.modality.wording import worded
from tasks.networks.intervals import wilson_interval
from tasks.records import Run
from tasks.report import charts, run_facts
from tasks.report.changes import confusion_changes, corrections, data_changes
from tasks.report.data import data
from tasks.report.evidence import Evidence, Prediction, read_evidence
from tasks.report.forecast import forecast, gaining_classes
from tasks.report.markdown import model_card, override_sentence
from tasks.report.mistakes import explained
from tasks.report.numbers import count, duration, interval, percent
from tasks.report.statistics import (
    confusion_counts,
    flipped,
    most_confused,
    reliability_bins,
    right_by_share,
    worst_mistakes,
)
from tasks.report.templating import page_environment
from tasks.report.thumbnails import preview
from tasks.report.words import next_steps, opening
from tasks.storage.quarantine import reason_kind

# Bounds on what is drawn, so that a page of 200 classes or a million images stays under 2 MB.
MAX_MISTAKES = 24
MAX_FLIPPED = 12
MAX_SUSPECTS = 24
MAX_QUARANTINED_PICTURES = 12
MAX_QUARANTINED = 200
FOLDED_CLASSES = 40  # more classes than this are folded away

VERDICTS = {
    "promoted": ("good", "✓", "Promoted"),
    "refused": ("bad", "✕", "Refused"),
    "unchanged": ("calm", "=", "Unchanged"),
    "invalid-data": ("bad", "!", "Invalid data"),
    "unknown": ("calm", "?", "No verdict"),
}


def write_report(run: Run) -> str:
    """Writes `report.html` and `model_card.md` into the run's folder.

    Returns:
        The path of the page, relative to the workspace.
    """
    evidence = read_evidence(run)
    path = run.path("report.html")
    run.workspace.write_bytes(run.path("model_card.md"), model_card(evidence).encode())
    run.workspace.write_bytes(path, render_page(evidence).encode())
    return path


def load_template(task: str) -> jinja2.Template:
    """The page's template for a task's items: compiled once a process, which takes a tenth of a second."""
    return page_environment("tasks.report", task).get_template("report.html.j2")


def render_page(evidence: Evidence) -> str:
    """The page's HTML. Every string of the user's is escaped by the template engine."""
    kind, sign, word = VERDICTS.get(evidence.verdict, VERDICTS["unknown"])
    if evidence.override:
        kind, sign, word = "calm", "!", "Promoted by hand"
    task, labels = evidence.run.config.task, evidence.labels

    def said(sentence: str) -> str:
        return worded(sentence, task, labels)

    return visible_lines(
        load_template(task).render(
            run=evidence.run,
            evidence=evidence,
            said=said,
            verdict={"kind": kind, "sign": sign, "word": word},
            opening=said(opening(evidence)),
            override=override_sentence(evidence.override) if evidence.override else "",
            next_steps=[(said(sentence), command) for sentence, command in next_steps(evidence)],
            key_figures=[{key: said(each) for key, each in card.items()} for card in _key_figures(evidence)],
            gates=evidence.decision.get("gates") or [],
            champion=_champion(evidence),
            changes=_data_changes(evidence),
            corrections=corrections(evidence.corrections),
            robustness=_robustness(evidence),
            choice=_choice(evidence),
            forecast=_forecast(evidence, said),
            confusion=_confusion(evidence),
            classes=_classes(evidence),
            learning=_learning(evidence),
            reliability=_reliability(evidence),
            familiarity=_familiarity(evidence),
            mistakes=explained(evidence, worst_mistakes(evidence.judged, MAX_MISTAKES)),
            suspects=_suspects(evidence),
            quarantine=_quarantine(evidence),
            expectations=_expectations(evidence),
            data=data(evidence),
            timings=run_facts.timings(evidence),
            lineage=run_facts.lineage(evidence),
            config=run_facts.config(evidence),
        )
    )


def _key_figures(evidence: Evidence) -> list[dict[str, str]]:
    """The cards under the verdict: a name, a value and what bounds it."""
    cards = []
    for split in ("test", "validation"):
        metrics = evidence.metrics.get(split) or {}
        n = int(metrics.get("n") or 0)
        if "accuracy" in metrics:
            bounds = interval(wilson_interval(round(metrics["accuracy"] * n), n))
            cards.append(_card(f"{split} accuracy", percent(metrics["accuracy"]), f"{bounds} on {count(n)} images"))
    judged = evidence.metrics.get("test") or evidence.metrics.get("validation") or {}
    if judged.get("macro_f1") is not None:
        cards.append(_card("macro F1", percent(judged["macro_f1"]), "mean over the classes"))
    if judged.get("ece") is not None:
        cards.append(_card("calibration error", percent(judged["ece"]), "claimed against true, on average"))
    if latency := evidence.decision.get("latency"):
        size = (evidence.decision.get("size_bytes") or 0) / 1e6
        note = f"95 % of images, one thread; {size:.1f}\u202fMB"
        cards.append(_card("latency", f"{latency['p95_ms']:.1f}\u202fms", note))
    images = evidence.summary.get("images") or {}
    if "total" in images:
        note = f"{count(images.get('new', 0))} new, {count(images.get('quarantined', 0))} quarantined"
        cards.append(_card("images", count(images["total"]), note))
    total_s = (evidence.summary.get("timings_s") or {}).get("total")
    if total_s is not None:
        cards.append(_card("time", duration(total_s), f"{count(images.get('embedded', 0))} images embedded"))
    return cards


def _card(name: str, value: str, note: str) -> dict[str, str]:
    return {"name": name, "value": value, "note": note}


def _champion(evidence: Evidence) -> dict[str, Any] | None:
    """The comparison with the model that was published before, or None for a first model."""
    version = evidence.decision.get("champion_version")
    comparison = evidence.decision.get("comparison") or {}
    judged = [p for p in evidence.judged if p.champion_predicted is not None]
    if version is None and not comparison and not judged:
        return None
    won, lost = flipped(judged)
    gates = evidence.decision.get("gates") or []
    return {
        "version": version,
        "n": len(judged),
        "both_right": sum(p.correct and p.champion_predicted == p.label for p in judged),
        "both_wrong": sum(not p.correct and p.champion_predicted != p.label for p in judged),
        "won": len(won),
        "lost": len(lost),
        "won_pictures": [_picture(p) for p in won[:MAX_FLIPPED]],
        "lost_pictures": [_picture(p) for p in lost[:MAX_FLIPPED]],
        "comparison": comparison if comparison.get("n") else None,
        "all_images": _all_images(evidence.decision.get("all_images")),
        "confusions": confusion_changes(judged),
        "by_class": evidence.decision.get("class_comparisons") or [],
        "level": next((gate["threshold"] for gate in gates if gate["name"] == "class regressions"), 0),
        "classes": evidence.decision.get("classes") or {},
    }


def _all_images(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """What all images say where the test split has too few: the whole, and a row for each kind of image."""
    if not found:
        return None
    kinds = (
        ("test", "both files"),
        ("old", "cross-fitted predictions of both"),
        ("new", "the champion's file, and cross-fitted predictions"),
    )
    rows = [{"kind": kind, "by": by, **found[kind]} for kind, by in kinds if found[kind]["n"]]
    return {**found, "rows": rows}


def _data_changes(evidence: Evidence) -> dict[str, Any] | None:
    """What changed in the data since the champion was trained; None where its snapshot was removed."""
    before, now = evidence.champion_snapshot, evidence.snapshot
    if before is None or now is None:
        return None
    rows = data_changes(before, now)
    return {
        "rows": [row for row in rows if row.changed],
        "same": sum(not row.changed for row in rows),
        "new": sum(row.new for row in rows),
        "gone": sum(row.gone for row in rows),
        "relabelled": sum(row.relabelled_in for row in rows),
    }


def _robustness(evidence: Evidence) -> list[dict[str, Any]]:
    return [
        {**row, "bar": charts.bar(row["accuracy"], interval=None)} for row in evidence.decision.get("robustness") or []
    ]


def _choice(evidence: Evidence) -> dict[str, Any] | None:
    """What `--auto` tried."""
    record = (evidence.summary.get("lineage") or {}).get("auto")
    if not record:
        return None
    keys = list(record["chosen"])
    return {
        "images": record["validation_images"],
        "optimism": record["optimism"],
        "earlier": record["run_id"] if record["run_id"] != evidence.run.run_id else None,
        "columns": [key.split(".")[1].replace("_", " ") for key in keys],
        "trials": [
            {
                **trial,
                "settings": [trial["settings"][key] for key in keys],
                "chosen": trial["settings"] == record["chosen"],
            }
            for trial in record["trials"]
        ],
    }


def _forecast(evidence: Evidence, said: Callable[[str], str]) -> dict[str, Any] | None:
    """The expected gain from more labels."""
    items = f"{evidence.run.config.task}s"
    curve = evidence.learning_curve
    if not curve:
        return None
    measured = [(point["images"], point["accuracy"]) for point in curve["points"]]
    return {
        "words": said(forecast(curve)),
        "figure": charts.doubling_figure(measured, min(1.0, measured[-1][1] + curve["next_gain"]), items),
        "classes": gaining_classes(curve),
    }


def _suspects(evidence: Evidence) -> dict[str, Any] | None:
    """The images whose labels are most likely wrong, with their pictures."""
    if not evidence.suspects:
        return None
    counted = next((each for each in evidence.expectations if each.get("expectation") == "label-suspects"), {})
    shown = evidence.suspects[:MAX_SUSPECTS]
    return {
        "count": counted.get("unexpected_count") or len(evidence.suspects),
        "shown": [{"suspect": each, **preview(each.uri)} for each in shown],
        "listed": len(evidence.suspects),
        "expected": _mean([each.wrong for each in evidence.suspects if each.wrong is not None]),
        "held_out": sum(each.split != "train" for each in shown),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _quarantine(evidence: Evidence) -> dict[str, Any] | None:
    """The files that were left out: counts by kind of reason, pictures where there are some, and the list."""
    entries = evidence.quarantine
    if not entries:
        return None
    with_picture = [entry for entry in entries if entry.get("uri")][:MAX_QUARANTINED_PICTURES]
    pictures = [{"entry": entry, **preview(entry["uri"])} for entry in with_picture]
    return {
        "files": len({(entry["path"], entry["label"]) for entry in entries}),
        "kinds": Counter(reason_kind(entry["reason"]) for entry in entries).most_common(),
        "pictures": [each for each in pictures if len(each) > 1],
        "listed": entries[:MAX_QUARANTINED],
        "more": max(0, len(entries) - MAX_QUARANTINED),
    }


def _expectations(evidence: Evidence) -> dict[str, Any] | None:
    """Validation's findings: failed ones by severity, and met ones."""
    if not evidence.expectations:
        return None
    grave = {severity: place for place, severity in enumerate(("stop", "quarantine", "warn"))}
    unmet = [each for each in evidence.expectations if not each.get("success")]
    return {
        "unmet": sorted(unmet, key=lambda each: grave.get(each.get("severity", ""), 0)),
        "met": [each for each in evidence.expectations if each.get("success")],
    }


def _picture(prediction: Prediction) -> dict[str, Any]:
    return {"prediction": prediction, **preview(prediction.uri)}


def _confusion(evidence: Evidence) -> dict[str, Any] | None:
    if not evidence.judged:
        return None
    return {
        "figure": charts.confusion_chart(
            evidence.labels, confusion_counts(evidence.judged), f"{evidence.run.config.task}s"
        ),
        "pairs": most_confused(evidence.judged),
        "wrong": sum(not p.correct for p in evidence.judged),
        "n": len(evidence.judged),
    }


def _classes(evidence: Evidence) -> dict[str, Any] | None:
    """Per-class rows, the lowest recall first; `folded` holds those beyond `FOLDED_CLASSES`."""
    rows = [
        {**row, "bar": charts.bar(row["recall"], interval=(row["recall_low"], row["recall_high"]))}
        for row in sorted(_per_class(evidence), key=lambda row: (row["recall"], row["label"]))
    ]
    return {"shown": rows[:FOLDED_CLASSES], "folded": rows[FOLDED_CLASSES:]} if rows else None


def _per_class(evidence: Evidence) -> list[dict[str, Any]]:
    """The decision's table, or one counted from the predictions; classes without images are left out."""
    if evidence.per_class:
        return [row for row in evidence.per_class if row.get("n") and row.get("recall") is not None]
    given = Counter(p.label for p in evidence.judged)
    taken = Counter(p.predicted for p in evidence.judged)
    right = Counter(p.label for p in evidence.judged if p.correct)
    rows = []
    for label, n in given.items():
        low, high = wilson_interval(right[label], n)
        rows.append(
            {
                "label": label,
                "n": n,
                "recall": right[label] / n,
                "precision": right[label] / taken[label] if taken[label] else None,
                "f1": 2 * right[label] / (n + taken[label]),
                "recall_low": low,
                "recall_high": high,
            }
        )
    return rows


def _learning(evidence: Evidence) -> dict[str, Any] | None:
    epochs = evidence.history.get("epochs") or []
    if not epochs:
        return None
    best = evidence.history.get("best_epoch")

    def curve(title: str, train: str, held_out: str, *, as_percent: bool) -> Any:
        series = {
            kind: [epoch[key] for epoch in epochs]
            for kind, key in (("train", train), ("held-out", held_out))
            if all(epoch.get(key) is not None for epoch in epochs)
        }
        return charts.line_figure(title, series, best=best, percent=as_percent) if series else None

    return {
        "accuracy": curve("Accuracy", "accuracy", "val_accuracy", as_percent=True),
        "loss": curve("Loss", "loss", "val_loss", as_percent=False),
        "epochs": len(epochs),
        "best": best,
        "temperature": evidence.history.get("temperature"),
    }


def _reliability(evidence: Evidence) -> dict[str, Any] | None:
    bins = reliability_bins([(p.probability, p.correct) for p in evidence.judged])
    if not bins:
        return None
    before = reliability_bins([(p.uncalibrated, p.correct) for p in evidence.judged if p.uncalibrated is not None])
    return {
        "figure": charts.reliability_chart(bins, before, f"{evidence.run.config.task}s"),
        "bins": bins,
        "before": bool(before),
        "errors": evidence.decision.get("calibration") or {},
    }


def _familiarity(evidence: Evidence) -> dict[str, Any] | None:
    """Risk against coverage, and how well unknown classes are told; None in earlier runs."""
    judged = [p for p in evidence.judged if p.familiarity is not None]
    said = evidence.decision.get("familiarity")
    if not said or not judged:
        return None
    by_familiarity = right_by_share([(p.familiarity or 0.0, p.correct) for p in judged])
    by_probability = right_by_share([(p.probability, p.correct) for p in judged])
    right: dict[bool, list[float]] = {True: [], False: []}  # of familiar images, and of the others
    for p in judged:
        right[(p.familiarity or 0.0) >= said["threshold"]].append(float(p.correct))
    unknown = said.get("unknown_classes")
    return {
        "figure": charts.coverage_chart(by_probability, by_familiarity),
        "familiar": len(right[True]),
        "n": len(judged),
        "right_familiar": _mean(right[True]),
        "right_others": _mean(right[False]),
        "unknown": unknown,
        "classes": sorted(unknown["classes"].items(), key=lambda row: row[1]) if unknown else [],
    }
