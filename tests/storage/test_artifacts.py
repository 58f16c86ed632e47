"""One memo: finished work is found by its key, whoever asks; changed or damaged work is made again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.config import parse_config
from tasks.records import Candidate, CrossFitted, Decision, Features, GateResult, Head, Run, Variant
from tasks.storage import artifacts
from tasks.storage.artifacts import RECORD, artifacts_in_use, current_artifacts, kept
from tasks.storage.lineage import library_versions
from tests.runs import make_extractor_record, make_head_record, make_run, make_snapshot_record


@pytest.fixture(params=["folder", "bucket"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    workspace = tmp_path / "w" if request.param == "folder" else request.getfixturevalue("bucket_url")
    return make_run(workspace, "photos")


def features(run: Run, key: str = "r", embedded: int = 90, snapshot: str = "s") -> Features:
    record = make_snapshot_record(run, snapshot, labels=("a", "b"))
    return Features(snapshot=record, extractor=make_extractor_record(key=key), views=1, embedded=embedded)


class Stage:
    """Counts how often it is done."""

    def __init__(self) -> None:
        self.done = 0

    def train(self, run: Run, features: Features) -> Head:
        self.done += 1
        run.workspace.write_bytes(run.path("head.keras"), b"weights")
        return Head(features=features, digest="d", temperature=1.5, folder=run.folder)


def test_finished_work_is_not_repeated_by_another_run(run: Run):
    stage = Stage()
    train = kept("finetune", stage.train)
    first = train(run, features(run))
    # How many images were embedded depends on when a process was interrupted; what the features are does not.
    later = features(run, embedded=0)
    again = train(replace(run, run_id="r2"), later)
    assert (again, stage.done) == (first, 1)
    assert again.features is later
    assert run.workspace.read_bytes(again.keras_path) == b"weights"
    assert again.folder.startswith("artifacts/finetune/")


def test_other_inputs_configuration_rules_code_and_libraries_are_other_work(run: Run, monkeypatch: pytest.MonkeyPatch):
    stage = Stage()
    train = kept("finetune", stage.train, reads=lambda run, features: run.config.finetune)
    train(run, features(run))
    train(run, features(run, key="another"))
    train(run, features(run, snapshot="another"))
    assert stage.done == 3
    train(replace(run, config=parse_config({"finetune": {"epochs": 3}})), features(run))
    assert stage.done == 4
    train(replace(run, config=parse_config({"export": {"max_accuracy_drop": 0.5}})), features(run))
    assert stage.done == 4  # it does not read that
    kept("finetune", stage.train, version=2, reads=lambda run, features: run.config.finetune)(run, features(run))
    assert stage.done == 5
    newer = {**library_versions(), "keras": "99"}
    monkeypatch.setattr(artifacts, "library_versions", lambda: newer)
    train(run, features(run))
    assert stage.done == 6


@pytest.mark.parametrize("damage", ["head.keras", RECORD])
def test_damaged_work_is_dropped_named_and_made_again(run: Run, damage: str, caplog: pytest.LogCaptureFixture):
    stage = Stage()
    train = kept("finetune", stage.train)
    folder = train(run, features(run)).folder
    run.workspace.write_bytes(f"{folder}/{damage}", b"w\x00ights")
    artifacts_in_another_process()
    assert run.workspace.read_bytes(train(run, features(run)).keras_path) == b"weights"
    assert stage.done == 2
    assert f"{folder} is damaged ({damage})" in caplog.text


def test_work_whose_files_are_gone_is_made_again(run: Run):
    stage = Stage()
    train = kept("finetune", stage.train)
    run.workspace.remove(train(run, features(run)).keras_path)
    artifacts_in_another_process()
    train(run, features(run))
    assert stage.done == 2


def artifacts_in_another_process() -> None:
    from tasks.storage import digests

    digests._verified.clear()


def test_work_that_failed_is_not_there(run: Run):
    def fails(run: Run) -> int:
        run.workspace.write_bytes(run.path("half"), b"")
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        kept("review", fails)(run)

    def works(run: Run) -> int:
        return 7

    assert kept("review", works)(run) == 7


def test_what_is_missing_is_asked_for_again(run: Run):
    asked = []

    def cross_fit(run: Run, features: Features) -> CrossFitted:
        asked.append(1)
        return CrossFitted(features=features, folder=run.folder, missing="" if len(asked) > 1 else "no time")

    ask = kept("cross-fit", cross_fit)
    assert [ask(run, features(run)).missing for _ in range(3)] == ["no time", "", ""]
    assert len(asked) == 2


def test_a_record_comes_back_to_the_type_of_its_numbers(run: Run):
    candidate = Candidate(head=make_head_record(run, features(run).snapshot), onnx_path="m", sha256="s", version=2)

    def judge(run: Run, candidate: Candidate) -> Decision:
        return Decision(
            candidate=candidate,
            promote=True,
            reasons=("champion: better",),
            gates=(GateResult(name="n", passed=None, value=5, threshold="any", reason="r", interval=(0.1, 0.3)),),
            folder=run.folder,
            metrics={"test": {"accuracy": 0.1 + 0.2, "n": 45}},
        )

    def vary(run: Run, decision: Decision) -> tuple[Variant, ...]:
        return (Variant(precision="int8", onnx_path="v", sha256="s", published=True, measured={"n": 1, "a": 1.0}),)

    first, again = (kept("evaluate", judge)(run, candidate) for _ in range(2))
    assert repr(first) == repr(again)
    first, again = (kept("variants", vary)(run, first) for _ in range(2))
    assert repr(first) == repr(again)


def test_what_a_run_is_made_of_is_collected(run: Run):
    assert current_artifacts() == {}
    with artifacts_in_use() as used:
        head = kept("finetune", Stage().train)(run, features(run))
        assert used == current_artifacts() == {"finetune": head.folder}
    assert current_artifacts() == {}


def test_an_artifact_of_an_earlier_version_lacks_the_fields_that_came_since(run: Run):
    stage = Stage()
    train = kept("finetune", stage.train)
    folder = train(run, features(run)).folder
    path = f"{folder}/{RECORD}"
    written = run.workspace.read_json(path)
    newer = {"best_epoch", "validation_accuracy"}
    assert newer <= written["record"].keys()
    older = {name: value for name, value in written["record"].items() if name not in newer}
    run.workspace.write_json(path, {**written, "record": older})
    restored = train(run, features(run))
    assert (stage.done, restored.digest, restored.best_epoch) == (1, "d", None)
