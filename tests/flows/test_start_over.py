"""A source that changes under a run: the run starts over, once, with what is there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import flows.retrain
from tasks.errors import SourceChangedError
from tests.flows.retraining import retrained
from tests.photos import class_folders, photo, save

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "photos", {"cat": 24, "dog": 24})


def harm_before_extraction(monkeypatch: pytest.MonkeyPatch, harm, times: int) -> list[int]:
    """Calls `harm` with a counter, the first `times` times that the run comes to the features."""
    calls, extract = [], flows.retrain.extract_features

    def harmed(*args):
        calls.append(len(calls))
        if len(calls) <= times:
            harm(len(calls))
        return extract(*args)

    monkeypatch.setattr(flows.retrain, "extract_features", harmed)
    return calls


@pytest.mark.parametrize("how", ["deleted", "changed", "snapshots deleted"])
def test_the_run_starts_over_with_what_is_there(tmp_path: Path, source: Path, monkeypatch, how: str):
    file = source / "cat/00003.jpg"

    def harm(call: int) -> None:
        if how == "deleted":
            file.unlink()
        elif how == "changed":
            save(file, photo(999, hue=0))
        else:
            shutil.rmtree(tmp_path / "w/snapshots")

    calls = harm_before_extraction(monkeypatch, harm, 1)
    summary = retrained(source, tmp_path / "w")
    assert summary["verdict"] in ("promoted", "refused")
    assert summary["images"]["total"] == (47 if how == "deleted" else 48)
    assert len(calls) == 2


def test_a_source_that_does_not_come_to_rest_is_a_fault(tmp_path: Path, source: Path, monkeypatch):
    calls = harm_before_extraction(monkeypatch, lambda call: save(source / "cat/00003.jpg", photo(900 + call)), 9)
    with pytest.raises(SourceChangedError, match=r"00003\.jpg"):
        retrained(source, tmp_path / "w")
    assert len(calls) == 2
