"""A source and a workspace that were moved: everything is found in its own place, and nothing points to the old one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.cli.status import model_status
from tasks.workspace import Workspace
from tests.flows.retraining import NAME, retrained
from tests.photos import class_folders

pytestmark = pytest.mark.usefixtures("prefect_api")


def naming(folder: Path, place: Path) -> list[str]:
    """The files below a folder, those of earlier runs left out, in which a path stands."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".parquet")
    return [str(path.relative_to(folder)) for path in files if str(place).encode() in path.read_bytes()]


def test_a_moved_source_and_workspace_are_retrained_where_they_are(tmp_path: Path):
    old, new = tmp_path / "old", tmp_path / "new"
    first = retrained(class_folders(old / "photos", {"cat": 40, "dog": 40}), old / "w")
    assert naming(old / "w", old / "w") == []  # the source's place is the user's, and stands in the summary
    old.rename(new)

    status = model_status(Workspace(str(new / "w")), NAME)
    assert status["last_decision"]["report"] == str(new / "w/runs" / first["run_id"] / "report.html")
    assert Path(status["champion"]["model"]).is_relative_to(new / "w")

    # Without their features and the judgement, all images are read again, by the snapshot's addresses.
    for made in ("features", "artifacts/evaluate"):
        shutil.rmtree(new / "w" / made)
    again = retrained(new / "photos", new / "w", force=True)
    assert again["snapshot"] == first["snapshot"]
    assert again["images"]["embedded"] == 80
    assert all(Path(again[key]).is_relative_to(new / "w") for key in ("model", "report"))
    assert naming(new / "w/runs" / again["run_id"], old) == []
