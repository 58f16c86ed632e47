"""`--auto` as a user runs it: it chooses on validation, shows what it tried, and does not search twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.preflight import check_run
from tasks.config import CHOSEN
from tasks.errors import ConfigError
from tests import photos
from tests.flows.retraining import retrained
from tests.runs import make_run

TINY = {"auto": {"enabled": True}, "finetune": {"epochs": 1, "unfrozen_epochs": 1}}


def searched(folder: Path, workspace: Path, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The summary, and the run's auto.json."""
    summary = retrained(folder, workspace, **TINY, **more)
    assert summary["verdict"] != "invalid-data"
    return summary, json.loads((workspace / "runs" / summary["run_id"] / "auto.json").read_text())


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_api")
def test_the_choice_is_shown_kept_used_and_not_made_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = photos.class_folders(tmp_path / "photos", {"red": 40, "green": 40})
    workspace = tmp_path / "w"
    summary, record = searched(folder, workspace)
    said = capsys.readouterr().err

    settings = [trial["settings"] for trial in record["trials"]]
    assert record["chosen"] in settings
    assert {s["backbone.boundary"] for s in settings} == {"avg_pool", "block_12_add"}
    assert "validation images" in said
    assert said.count("embedded") >= len(settings)
    assert summary["images"]["embedded"] == summary["images"]["total"] == 80  # the trials did it all
    config = summary["config"]
    assert {key: config[key.split(".")[0]][key.split(".")[1]] for key in CHOSEN} == record["chosen"]
    assert summary["lineage"]["auto"] == record
    assert summary["lineage"]["boundary"] == record["chosen"]["backbone.boundary"]
    assert summary["timings_s"]["auto"] > 0

    tried = {path: path.stat().st_mtime_ns for path in workspace.glob("artifacts/try/*/artifact.json")}
    assert len(tried) == len(settings)
    again, kept = searched(folder, workspace, force=True)
    assert kept["chosen"] == record["chosen"]
    assert {path: path.stat().st_mtime_ns for path in workspace.glob("artifacts/try/*/artifact.json")} == tried
    assert again["images"]["embedded"] == 0
    assert again["lineage"]["head_digest"] == summary["lineage"]["head_digest"]
    assert "nothing is new" in " ".join(retrained(folder, workspace, **TINY)["reasons"])


def test_several_backbones_without_auto_are_a_mistake(tmp_path: Path):
    folder = photos.class_folders(tmp_path / "photos", {"red": 5, "green": 5})
    with pytest.raises(ConfigError, match="to choose among embedded, mobilenet_v2, give --auto") as mistake:
        check_run(make_run(tmp_path / "w", folder, config={"auto": {"backbones": ["embedded", "mobilenet_v2"]}}))
    assert mistake.value.exit_status == 2
