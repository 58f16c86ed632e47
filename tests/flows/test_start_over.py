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


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, beside a workspace that the tests use one after the other: each makes only what another changed."""
    return class_folders(tmp_path_factory.mktemp("start over") / "photos", {"cat": 24, "dog": 24})


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


@pytest.mark.parametrize("how", ["deleted", "snapshots deleted", "changed"])
def test_the_run_starts_over_with_what_is_there(source: Path, monkeypatch, how: str):
    file, workspace = source / "cat/new.jpg", source.parent / "w"
    if how != "snapshots deleted":
        save(file, photo(998, hue=0))

    def harm(call: int) -> None:
        if how == "deleted":
            file.unlink()
        elif how == "changed":
            save(file, photo(999, hue=0))
        else:
            shutil.rmtree(workspace / "snapshots")

    calls = harm_before_extraction(monkeypatch, harm, 1)
    summary = retrained(source, workspace, force=True)
    assert summary["verdict"] in ("promoted", "refused")
    assert summary["images"]["total"] == (49 if how == "changed" else 48)
    assert len(calls) == 2
    file.unlink(missing_ok=True)


def test_a_source_that_does_not_come_to_rest_is_a_fault(tmp_path: Path, source: Path, monkeypatch):
    calls = harm_before_extraction(monkeypatch, lambda call: save(source / "cat/00004.jpg", photo(900 + call)), 9)
    with pytest.raises(SourceChangedError, match=r"00004\.jpg"):
        retrained(source, tmp_path / "w")
    assert len(calls) == 2
