"""A person publishes what the gates refused: what that takes, where it shows, and what it can't override."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.cli.status import model_status, status_text
from tasks.errors import DamagedFileError, HeadstartError, RefusedError, UsageError
from tasks.publish import promote as promoting
from tasks.publish.promote import promote
from tasks.publish.verify import verify
from tasks.storage.repository import read_manifest, read_model, versions
from tasks.workspace import Workspace
from tests.deploy.serving.models import colour_model, publish

NAME, RUN = "colours", "20260102T030405-colours-00000a"
CANDIDATE = colour_model(turn=1)
WHO = {"by": "Ada", "reason": "the new camera is what counts"}


def gate(name: str, passed: bool | None, *, overridable: bool = True) -> dict[str, Any]:
    return {"name": name, "passed": passed, "value": 0.5, "threshold": 0.6, "reason": "so", "overridable": overridable}


PARITY = gate("parity of labels", True, overridable=False)


def refused_run(workspace: Workspace, *gates: dict[str, Any], verdict: str = "refused") -> None:
    """What a run leaves behind whose candidate was compared with version 1."""
    candidate = f"runs/{RUN}/candidate/model.onnx"
    workspace.write_bytes(candidate, CANDIDATE)
    decision = {
        "promote": False,
        "verdict": verdict,
        "reasons": ["accuracy: so"],
        "gates": [PARITY, *gates],
        "metrics": {"test": {"accuracy": 0.5, "n": 40}},
        "champion_version": 1,
        "candidate": {"onnx_path": candidate, "sha256": hashlib.sha256(CANDIDATE).hexdigest(), "version": 2},
    }
    workspace.write_json(f"runs/{RUN}/decision.json", decision)
    summary = {
        "run_id": RUN,
        "name": NAME,
        "verdict": verdict,
        "reasons": ["accuracy: so"],
        "labels": ["red", "green", "blue"],
        "source": "photos",
        "config": {},
        "started_at": "2026-01-02T03:04:05+00:00",
        "lineage": {"snapshot": "s"},
        "metrics": decision["metrics"],
        "version": 1,
    }
    workspace.write_json(f"runs/{RUN}/summary.json", summary)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    publish(tmp_path, 1, lineage={"snapshot": "r"})
    return Workspace(str(tmp_path))


def test_the_very_file_is_published_and_the_override_shows_everywhere(workspace: Workspace):
    refused_run(workspace, gate("accuracy", False))
    command = ["promote", RUN, "--by", WHO["by"], "--reason", WHO["reason"], "--workspace", workspace.url, "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert read_model(workspace, NAME, 2)["model.onnx"] == CANDIDATE
    decision = read_manifest(workspace, NAME, 2)["decision"]
    assert decision["override"]["gates"] == ["accuracy"]
    assert [each["passed"] for each in decision["gates"]] == [True, False]  # their answers stay
    assert workspace.read_json(f"runs/{RUN}/summary.json")["version"] == 2
    assert workspace.read_json(f"runs/{RUN}/decision.json")["override"]["by"] == "Ada"
    status = model_status(workspace, NAME)
    assert status["champion"]["override"]["reason"] == WHO["reason"]
    assert "promoted by Ada against the gates: the new camera is what counts" in status_text(status)
    card = workspace.read_bytes(f"runs/{RUN}/model_card.md").decode()
    page = workspace.read_bytes(f"runs/{RUN}/report.html").decode()
    assert all("Ada" in text and WHO["reason"] in text for text in (card, page))


def test_it_verifies_and_says_that_it_was_overridden(workspace: Workspace):
    refused_run(workspace, gate("accuracy", False))
    promote(workspace, RUN, **WHO)
    found = verify(workspace.path(f"models/{NAME}/2"))
    assert found.problems == []
    [said] = [check.detail for check in found.checks if check.name == "decision"]
    assert "overridden by Ada: the new camera is what counts" in said


@pytest.mark.parametrize(
    ("failed", "override"),
    [
        (gate("size", False), None),
        (gate("size", False), {"by": "Ada"}),
        (gate("latency", False, overridable=False), WHO),
    ],
)
def test_a_version_whose_gates_failed_without_a_rightful_override_does_not_verify(
    tmp_path: Path, failed: dict[str, Any], override: dict[str, str] | None
):
    folder = publish(tmp_path, 1, decision={"promote": True, "gates": [PARITY, failed], "override": override})
    [problem] = verify(str(folder)).problems
    assert problem == f"decision: promoted, though these gates failed: {failed['name']}"


@pytest.mark.parametrize("final", [gate("parity of labels", False, overridable=False)])
def test_what_nobody_may_override_is_refused_with_its_own_exit_status(workspace: Workspace, final: dict[str, Any]):
    refused_run(workspace, gate("accuracy", False), final)
    with pytest.raises(RefusedError, match="parity of labels: so") as caught:
        promote(workspace, RUN, **WHO)
    assert caught.value.exit_status == 3
    assert versions(workspace, NAME) == [1]


def test_a_run_that_was_not_refused_or_is_unknown_is_a_mistake(workspace: Workspace):
    refused_run(workspace, verdict="promoted")
    with pytest.raises(UsageError, match="is promoted: only a refused run"):
        promote(workspace, RUN, **WHO)
    for unknown in ("20260102T030405-colours-ffffff", "../models", ""):
        with pytest.raises(UsageError, match="no finished run"):
            promote(workspace, unknown, **WHO)


def test_a_candidate_is_not_published_over_a_champion_that_it_was_not_compared_with(workspace: Workspace):
    refused_run(workspace, gate("accuracy", False))
    publish(Path(workspace.url), 2, lineage={"snapshot": "r"})
    with pytest.raises(UsageError, match="compared with version 1 of colours, and 2 is in service now"):
        promote(workspace, RUN, **WHO)


def test_a_candidate_that_changed_is_not_published(workspace: Workspace):
    refused_run(workspace, gate("accuracy", False))
    workspace.write_bytes(f"runs/{RUN}/candidate/model.onnx", CANDIDATE + b"\0")
    with pytest.raises(DamagedFileError, match="changed after it was judged"):
        promote(workspace, RUN, **WHO)


@pytest.mark.parametrize("empty", ["by", "reason"])
def test_a_name_and_a_reason_are_asked_for(workspace: Workspace, empty: str):
    refused_run(workspace, gate("accuracy", False))
    with pytest.raises(UsageError, match=f"--{empty} takes 1 to 1000 characters; found 0"):
        promote(workspace, RUN, **{**WHO, empty: "  "})


def test_an_attempt_that_died_after_publishing_is_finished_by_the_next(workspace: Workspace, monkeypatch):
    refused_run(workspace, gate("accuracy", False))
    with monkeypatch.context() as patched:
        patched.setattr(promoting, "_record", _die)
        with pytest.raises(HeadstartError, match="died here"):
            promote(workspace, RUN, **WHO)
    assert workspace.read_json(f"runs/{RUN}/summary.json")["verdict"] == "refused"
    _, done = promote(workspace, RUN, by="Grace", reason="once more")
    assert versions(workspace, NAME) == [1, 2]
    assert done["override"]["by"] == "Ada"  # who published it
    assert workspace.read_json(f"runs/{RUN}/summary.json")["override"]["by"] == "Ada"


def _die(*args: object) -> None:
    raise HeadstartError("died here")


def test_an_object_store_does_as_well_and_what_an_attempt_began_is_finished(bucket_url: str):
    workspace = Workspace(bucket_url)
    refused_run(workspace, gate("accuracy", False))
    decision = workspace.read_json(f"runs/{RUN}/decision.json")
    first = {**decision["candidate"], "version": 1}
    workspace.write_json(f"runs/{RUN}/decision.json", {**decision, "champion_version": None, "candidate": first})
    workspace.write_bytes(f"models/{NAME}/1/model.onnx", CANDIDATE)  # one that died before its manifest
    promote(workspace, RUN, **WHO)
    assert json.loads(workspace.read_bytes(f"models/{NAME}/1/manifest.json"))["decision"]["override"]["by"] == "Ada"
