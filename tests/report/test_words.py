"""The first sentence says in plain words what became of the model, and what to do now."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

from flows.cli.main import app
from tasks.report.evidence import Evidence, read_evidence
from tasks.report.words import next_steps, opening
from tasks.storage.quarantine import LeftOut, quarantine
from tests.report.fixture_run import make_run


def evidence(folder: Path, verdict: str, **decided: object) -> Evidence:
    run = make_run(folder, verdict=verdict)
    decision = run.workspace.read_json(run.path("decision.json"))
    gates = [{"name": "macro F1", "passed": False, "overridable": decided.pop("overridable", True)}]
    changes = {"gates": gates, **decided} if verdict == "refused" else decided
    run.workspace.write_json(run.path("decision.json"), {**decision, **changes})
    return read_evidence(run)


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        ("promoted", "passed every gate and is in service as version 3 of clothing."),
        ("refused", "but the gate macro F1 refused it, so it is not published;"),
        ("unchanged", "Nothing is new since the last run, so version 3 stays in service."),
        ("invalid-data", "The images failed validation, so no model was trained;"),
    ],
)
def test_the_sentence_says_what_became_of_the_model(tmp_path: Path, verdict: str, says: str):
    found = evidence(tmp_path, verdict)
    assert says in opening(found)
    if verdict in ("promoted", "refused"):
        test = found.metrics["test"]
        right = round(test["accuracy"] * test["n"])
        assert opening(found).startswith(f"The new model recognises {right} of {test['n']:.0f} test images (")


def test_who_published_it_against_the_gates_is_named(tmp_path: Path):
    override = {"by": "Ada", "reason": "so", "at": "2026-11-21T10:00:00+00:00"}
    found = evidence(tmp_path, "refused", override=override)
    assert opening(found).endswith("and was published by Ada, though the gates refused it.")


def test_what_lies_in_two_classes_leads_to_the_review(tmp_path: Path):
    found = replace(evidence(tmp_path, "promoted"), suspects=[])
    assert "headstart review clothing" not in [command for _, command in next_steps(found)]
    run = found.run
    quarantine(run, [LeftOut(f"{label}/a.jpg", "a" * 64, label, "the same", uri="a.jpg") for label in ("hat", "shirt")])
    assert read_evidence(run).disputed == 1
    assert "headstart review clothing" in [command for _, command in next_steps(replace(found, disputed=1))]


def test_without_a_summary_it_says_that_the_run_did_not_end(tmp_path: Path):
    found = evidence(tmp_path, "promoted")
    empty = Evidence(run=found.run)
    assert opening(empty).startswith("The run left no summary")
    assert next_steps(empty)


def test_a_refusal_that_nobody_may_override_does_not_offer_it(tmp_path: Path):
    may = [command for _, command in next_steps(evidence(tmp_path / "may", "refused"))]
    may_not = [command for _, command in next_steps(evidence(tmp_path / "not", "refused", overridable=False))]
    assert any(command.startswith("headstart promote 20261121T093000-clothing-1a2b3c") for command in may)
    assert not any("promote" in command for command in may_not)


@pytest.mark.parametrize("verdict", ["promoted", "refused", "unchanged", "invalid-data"])
def test_every_command_is_one_that_headstart_takes(tmp_path: Path, verdict: str):
    headstart = typer.main.get_command(app)
    for _, line in next_steps(evidence(tmp_path, verdict)):
        command, args = headstart, shlex.split(line)[1:]
        context = headstart.context_class(headstart)
        while args and isinstance(command, TyperGroup):
            _, found, args = command.resolve_command(context, args)
            assert found
            command = found
        if line:
            command.make_context("x", list(args))  # raises for an unknown option or a missing argument
