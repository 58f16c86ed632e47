"""The lines that a person reads at the end of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flows.cli.verdict import verdict_text
from tasks.storage.quarantine import LeftOut, quarantine
from tasks.workspace import Workspace
from tests.runs import make_run

SUMMARY: dict[str, Any] = {
    "run_id": "20261125T120000-hats-abcdef",
    "name": "hats",
    "verdict": "promoted",
    "version": 2,
    "reasons": ["champion: better by 2.0 points on the same 110 test images"],
    "metrics": {"test": {"accuracy": 0.9, "n": 110}, "validation": {"accuracy": 0.85, "n": 100}},
    "images": {"total": 1100, "new": 31, "quarantined": 3, "embedded": 31, "left_out": {"it has no label": 4}},
    "timings_s": {"total": 12.0, "extract": 6.0, "finetune": 4.0, "report": 0.0},
    "model": "/w/models/hats/2/model.onnx",
    "report": "/w/runs/r/report.html",
}
PER_CLASS = [
    {"label": "bowler", "n": 10, "recall": 1.0},
    {"label": "beret", "n": 20, "recall": 0.6},
    {"label": "empty", "n": 0, "recall": None},
]


@pytest.fixture
def workspace(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("COLUMNS", "80")
    place = Workspace(str(tmp_path))
    gates = [{"name": "champion", "passed": False, "overridable": True}]
    place.write_json(f"runs/{SUMMARY['run_id']}/decision.json", {"gates": gates, "per_class": {"test": PER_CLASS}})
    rows = ["cut.jpg: the image is truncated: 3 bytes", "gone.jpg: the image is truncated: 9 bytes", "a.txt: no image"]
    entries = [dict(zip(("path", "reason"), row.split(": ", 1), strict=True)) for row in rows]
    common = '"sha256": null, "label": null, "releasable": false, "run_id": "r", "date": "d"'
    lines = [f'{{"path": "{entry["path"]}", "reason": "{entry["reason"]}", {common}}}\n' for entry in entries]
    place.write_bytes(f"runs/{SUMMARY['run_id']}/quarantine.jsonl", "".join(lines).encode())
    return place


def test_a_promotion_says_what_was_measured_and_what_to_do_next(workspace: Workspace):
    assert verdict_text(SUMMARY, workspace).split("\n") == [
        "hats: promoted as version 2",
        "  because     champion: better by 2.0 points on the same 110 test images",
        "  accuracy    0.900 on 110 test images (95 % interval 0.830 to 0.943); 0.850 on",
        "              100 validation images",
        "  weakest     beret (12 of 20 recognised)",
        "  images      1,100, 31 new, 31 passed through the network; 3 quarantined (2 the",
        "              image is truncated; 1 no image); 4 left out (4 it has no label)",
        "  took        12.0 s (extract 6.0 s, finetune 4.0 s)",
        "  model       /w/models/hats/2/model.onnx",
        "  report      /w/runs/r/report.html",
        "  next        headstart predict hats PHOTO",
        "              headstart serve hats",
    ]


@pytest.mark.parametrize(
    ("corrected", "dropped", "issues", "line"),
    [
        (3, 1, 0, "  labels      3 labels corrected and 1 image dropped by corrections.csv"),
        (0, 2, 12, "  labels      2 images dropped by corrections.csv; 12 likely wrong"),
        (0, 0, 1, "  labels      1 likely wrong"),
    ],
)
def test_corrections_and_label_issues_have_a_line(workspace: Workspace, corrected, dropped, issues, line):
    found = {"corrections": {"corrected": corrected, "dropped": dropped}, "label_issues": issues}
    lines = verdict_text({**SUMMARY, **found}, workspace).split("\n")
    assert line in lines
    assert ("headstart review hats" in lines[-1]) == bool(issues)


def test_what_lies_in_two_classes_leads_to_the_review(workspace: Workspace):
    run = replace(make_run(workspace.url, "s"), run_id=SUMMARY["run_id"])
    quarantine(run, [LeftOut(f"line {label}", "a" * 64, label, "the same", uri="data:,x") for label in ("a", "b")])
    summary = {**SUMMARY, "config": {"ingest": {"task": "text"}}}
    lines = verdict_text(summary, workspace).split("\n")
    assert "  labels      1 text under several labels, left out until you decide" in lines
    assert "headstart review hats" in lines[-1]


def test_a_refusal_that_may_be_overridden_names_the_command(workspace: Workspace):
    text = verdict_text({**SUMMARY, "verdict": "refused"}, workspace)
    assert text.startswith("hats: refused\n")
    assert f"headstart promote {SUMMARY['run_id']} --by YOU" in text


def test_a_run_without_a_decision_has_fewer_lines(workspace: Workspace):
    bare = {**SUMMARY, "run_id": "other", "verdict": "invalid-data", "metrics": {"test": {}, "validation": {}}}
    text = verdict_text(bare, workspace)
    assert "accuracy" not in text
    assert "weakest" not in text
    assert "headstart quarantine list hats" in text
