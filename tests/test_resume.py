"""A run that died is gone on with: its finished stages are not repeated, and whatever changed is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tasks.records import Catalogue, Decision, Features, GateResult, Head, Run, Variant
from tasks.resume import begin, end, resumable, unfinished_run, unfinished_runs
from tasks.storage.assignments import read_assignments, write_assignments
from tasks.storage.repository import version_of, write_version
from tasks.storage.tables import CATALOGUE, write_table
from tests.runs import make_run

DECISION = Decision(
    promote=True,
    reasons=("champion: better",),
    gates=(GateResult(name="n", passed=None, value=5, threshold="any", reason="r"),),
    metrics={"test": {"accuracy": 0.1 + 0.2, "n": 45}},
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "w", "photos", "20260102T000000-shapes-aaaaaa")


def catalogue(run: Run, paths: tuple[str, ...] = ("a", "b")) -> Catalogue:
    path = run.path("catalogue.parquet")
    frame = CATALOGUE.empty_table().to_pandas().reindex(range(len(paths))).assign(path=paths, sha256=paths, label="cat")
    frame[["copies", "size_bytes", "width_px", "height_px"]] = 1
    write_table(run.workspace, path, frame)
    return Catalogue(table_path=path, images=len(paths), quarantined=0, source="photos")


def later(run: Run) -> Run:
    return replace(run, run_id="20260103T000000-shapes-bbbbbb", started_at="2026-01-03T00:00:00Z")


def test_the_same_work_is_gone_on_with_under_the_identity_of_the_run_that_died(run: Run):
    begin(run, catalogue(run), "f", "owner")
    assert unfinished_runs(run.workspace) == {run.run_id}
    assert unfinished_run(later(run), catalogue(later(run)), "f", "another") == run


def test_other_work_is_a_run_of_its_own_and_takes_over_what_the_other_met_first(run: Run):
    begin(run, catalogue(run), "f", "")
    write_assignments(run, pd.DataFrame({"sha256": ["a"], "split": ["train"], "group": ["a"], "run_id": [run.run_id]}))
    after = later(run)
    assert unfinished_run(after, catalogue(after), "another fingerprint", "") is None
    assert unfinished_run(after, catalogue(after, ("a", "moved")), "f", "") is None
    begin(after, catalogue(after), "another fingerprint", "")
    assert read_assignments(after)["run_id"].tolist() == [after.run_id]
    assert unfinished_runs(run.workspace) == {after.run_id}


def test_a_run_that_came_to_its_end_is_not_gone_on_with(run: Run):
    begin(run, catalogue(run), "f", "")
    end(run)
    end(run)
    assert unfinished_run(later(run), catalogue(later(run)), "f", "") is None


def test_on_an_object_store_only_a_runs_own_retry_goes_on_with_it(run: Run, bucket_url: str):
    run = make_run(bucket_url, "photos", run.run_id)
    begin(run, catalogue(run), "f", "owner")
    after = later(run)
    assert unfinished_run(after, catalogue(after), "f", "another") is None
    assert unfinished_run(after, catalogue(after), "f", "owner") == run


class Stage:
    """Counts how often it is done."""

    def __init__(self) -> None:
        self.done = 0

    def train(self, run: Run, features: Features) -> Head:
        self.done += 1
        for file in ("head.keras", "history.json", "logits.parquet"):
            run.workspace.write_bytes(run.path(file), b"x")
        return Head(
            keras_path=run.path("head.keras"),
            history_path=run.path("history.json"),
            validation_path=run.path("logits.parquet"),
            digest="d",
            temperature=1.5,
        )


def test_a_finished_stage_is_not_repeated(run: Run):
    stage = Stage()
    train = resumable("finetune", stage.train)
    first = train(run, Features(key="r", views=1, embedded=90))
    # How many images were embedded depends on when the process died; what the features are does not.
    assert train(run, Features(key="r", views=1, embedded=0)) == first
    assert stage.done == 1


def test_it_is_where_its_inputs_changed_or_its_files_are_gone(run: Run):
    stage = Stage()
    train = resumable("finetune", stage.train)
    train(run, Features(key="r", views=1, embedded=90))
    train(run, Features(key="another", views=1, embedded=90))
    assert stage.done == 2
    run.workspace.remove(run.path("head.keras"))
    train(run, Features(key="another", views=1, embedded=90))
    assert stage.done == 3


def test_a_stage_that_fails_leaves_no_entry(run: Run):
    def fails(run: Run) -> int:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        resumable("review", fails)(run)
    assert not run.workspace.exists(run.path("done/review.json"))


def test_what_comes_back_is_what_was_kept_to_the_type_of_its_numbers(run: Run):
    variants = (Variant(precision="int8", onnx_path="v", sha256="s", published=True, measured={"accuracy": 1.0}),)
    run.workspace.write_bytes("v", b"")

    def judge(run: Run) -> Decision:
        return DECISION

    def vary(run: Run) -> tuple[Variant, ...]:
        return variants

    for _ in range(2):
        found = resumable("evaluate", judge)(run)
        assert (found, repr(found)) == (DECISION, repr(DECISION))
        assert resumable("variants", vary)(run) == variants


def test_a_run_that_published_before_it_died_keeps_its_version(run: Run):
    assert version_of(run.workspace, "shapes", run.run_id) == 1
    write_version(run.workspace, "shapes", 1, {"model.onnx": b"1"}, {"run_id": run.run_id}, "config")
    assert version_of(run.workspace, "shapes", run.run_id) == 1
    assert version_of(run.workspace, "shapes", "another") == 2
