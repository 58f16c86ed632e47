"""The flow itself, stage after stage on real images, and each way in which it ends."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.exceptions import ParameterTypeError

import flows.preflight
import flows.retrain
from flows.retrain import retrain
from flows.summary import STAGES
from tasks.errors import ConfigError
from tasks.storage.repository import champion, read_manifest, versions
from tasks.storage.tables import read_table
from tasks.workspace import Workspace
from tests import photos
from tests.flows.retraining import LENIENT, NAME, ended_in, retrained

pytestmark = pytest.mark.usefixtures("prefect_api")

CLASSES = {"red": 40, "green": 40, "blue": 40}


@dataclass(frozen=True)
class Place:
    """A folder of photographs, a workspace, and the states of the runs so far."""

    folder: Path
    states: list[State[Any]] = field(default_factory=list)

    @property
    def source(self) -> Path:
        return self.folder / "photos"

    @property
    def workspace(self) -> Workspace:
        return Workspace(str(self.folder / "w"))

    @property
    def gates(self) -> Path:
        return self.folder / "gates.toml"

    def retrain(self, **more: Any) -> dict[str, Any]:
        self.states.append(ended_in(self.source, self.workspace.url, evaluate={"gates": str(self.gates)}, **more))
        return self.states[-1].result()

    def page(self) -> tuple[str, str]:
        """The last run's name in Prefect, and its state's."""
        wanted = FlowRunFilterId(any_=[self.states[-1].state_details.flow_run_id])  # type: ignore[list-item]
        with get_client(sync_client=True) as client:
            [run] = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=wanted))
        return run.name, str(self.states[-1].name)


def place_in(folder: Path) -> Place:
    place = Place(folder)
    photos.class_folders(place.source, CLASSES)
    place.gates.write_text(LENIENT)
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Place:
    return place_in(tmp_path_factory.mktemp("retrain"))


@pytest.fixture(scope="module")
def first(place: Place) -> dict[str, Any]:
    """The first run's summary; one of the photographs is cut off."""
    (place.source / "red" / "broken.jpg").write_bytes(photos.truncated_jpeg())
    summary = place.retrain()
    shutil.copytree(place.folder, copy_of(place))
    return summary


def copy_of(place: Place) -> Path:
    """Where the folder of a place is kept as the first run left it."""
    return place.folder.with_name("after the first run")


def test_the_first_model_is_published_with_all_that_it_was_made_of(place: Place, first: dict[str, Any]):
    assert (first["verdict"], first["version"]) == ("promoted", 1), first["reasons"]
    assert first["images"] == {"total": 121, "new": 120, "quarantined": 1, "embedded": 120, "left_out": {}}
    assert place.page() == (f"{NAME} · {first['snapshot'][:8]} · promoted as v1", "Promoted")
    manifest = read_manifest(place.workspace, NAME, 1)
    assert manifest["run_id"] == first["run_id"]
    assert manifest["metrics"] == first["metrics"]
    assert manifest["lineage"]["snapshot"] == first["snapshot"]
    assert first["model"] == place.workspace.path(f"models/{NAME}/1/model.onnx")
    kept = place.workspace.read_json(f"runs/{first['run_id']}/summary.json")
    paths = {"model": f"models/{NAME}/1/model.onnx", "report": f"runs/{first['run_id']}/report.html"}
    assert {**kept, "timings_s": {}} == {**json.loads(json.dumps(first)), **paths, "timings_s": {}}
    assert "truncated" in Path(first["report"]).read_text()


def test_every_stage_took_its_time(first: dict[str, Any]):
    timings = first["timings_s"]
    assert timings.keys() == {"total", *STAGES}
    assert {stage for stage in STAGES if timings[stage] == 0} <= {
        "auto",
        "augment",
        "cross_fit",
        "weigh",
        "variants",
    }  # not needed
    assert timings["total"] >= timings["finetune"]


@pytest.fixture(scope="module")
def unchanged(place: Place, first: dict[str, Any]) -> dict[str, Any]:
    return place.retrain()


def test_with_nothing_new_nothing_is_done(place: Place, first: dict[str, Any], unchanged: dict[str, Any]):
    assert (unchanged["verdict"], unchanged["version"]) == ("unchanged", 1)
    assert unchanged["images"] == {**first["images"], "new": 0, "embedded": 0}
    assert unchanged["metrics"] == first["metrics"]
    assert place.page()[1] == "Unchanged"
    assert unchanged["run_id"] != first["run_id"]
    assert {stage for stage in STAGES if unchanged["timings_s"][stage]} == {"ingest"}


def test_rules_changed_during_a_run_are_new_to_the_next(place: Place, unchanged: dict[str, Any], monkeypatch):
    publish = flows.retrain.publish_model

    def change_rules_then_publish(*args: Any) -> Any:
        place.gates.write_text(LENIENT.replace("0.5", "0.51"))
        return publish(*args)

    monkeypatch.setattr(flows.retrain, "publish_model", change_rules_then_publish)
    place.retrain(force=True)
    assert place.retrain()["timings_s"]["evaluate"] > 0
    assert place.retrain()["timings_s"]["evaluate"] == 0


def test_a_forced_run_comes_to_the_model_that_is_in_service(place: Place, unchanged: dict[str, Any]):
    costly = ("extractor", "finetune", "export", "evaluate")
    before = [artifacts(place.workspace, stage) for stage in costly]
    forced = place.retrain(force=True)
    assert (forced["verdict"], forced["version"], forced["images"]["embedded"]) == ("unchanged", 1, 0)
    assert "the very model that is in service as version 1" in forced["reasons"][0]
    assert versions(place.workspace, NAME) == [1]
    assert [artifacts(place.workspace, stage) for stage in costly] == before


def test_a_run_that_died_before_its_report_is_made_again(place: Place, unchanged: dict[str, Any], monkeypatch):
    def die(*_: Any) -> None:
        raise RuntimeError("no space left")

    with monkeypatch.context() as dying:
        dying.setattr(flows.retrain, "write_run_report", die)
        with pytest.raises(RuntimeError, match="no space left"):
            place.retrain(force=True)
    again = place.retrain()
    assert (again["timings_s"]["report"] > 0, again["images"]["embedded"]) == (True, 0)
    assert Path(again["report"]).is_file()
    assert place.retrain()["report"] == again["report"]


@pytest.fixture(scope="module")
def grown(place: Place, unchanged: dict[str, Any]) -> dict[str, Any]:
    """The summary of a run with a few images more: too few to rule out that the model is worse."""
    photos.class_folders(place.source, dict.fromkeys(CLASSES, 4), start=1000)
    return place.retrain()


def test_a_refusal_leaves_the_champion_and_says_why(place: Place, first: dict[str, Any], grown: dict[str, Any]):
    assert (grown["verdict"], grown["version"]) == ("refused", 1)
    assert "not enough data to rule out" in grown["reasons"][0]
    assert grown["images"] == {"total": 133, "new": 12, "quarantined": 1, "embedded": 12, "left_out": {}}
    assert place.page() == (f"{NAME} · {grown['snapshot'][:8]} · refused, v1 stays", "Refused")
    assert champion(place.workspace, NAME) == 1
    assert Path(grown["model"]).exists()  # the candidate, which a person may promote yet
    decision = place.workspace.read_json(f"runs/{grown['run_id']}/decision.json")
    assert decision["promote"] is False
    assert decision["comparison"]["n"] == grown["metrics"]["test"]["n"]


def test_no_image_changes_its_split_when_others_come(place: Place, first: dict[str, Any], grown: dict[str, Any]):
    before, after = (splits(place.workspace, summary["snapshot"]) for summary in (first, grown))
    assert before.items() <= after.items()


def test_what_was_refused_is_not_tried_again(place: Place, grown: dict[str, Any]):
    again = place.retrain()
    assert (again["verdict"], again["images"]["embedded"]) == ("unchanged", 0)
    assert again["version"] == 1


def test_data_that_fail_validation_stop_the_run_with_a_report(tmp_path: Path):
    place = place_in(tmp_path)
    shutil.rmtree(place.source / "green")
    for photo in sorted((place.source / "blue").iterdir())[1:]:
        photo.unlink()
    summary = place.retrain()
    assert (summary["verdict"], summary["version"], summary["snapshot"]) == ("invalid-data", None, None)
    assert "classes" in " ".join(summary["reasons"])
    assert place.page() == (f"{NAME} · invalid-data", "InvalidData")
    assert Path(summary["report"]).exists()
    assert place.workspace.names("artifacts/finetune") == []


def test_a_fault_is_raised_and_the_next_run_resumes_without_repeating_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, workspace = photos.class_folders(tmp_path / "photos", CLASSES), Workspace(str(tmp_path / "w"))
    monkeypatch.setenv("HEADSTART_SIGNING_KEY", str(tmp_path / "absent.pem"))
    monkeypatch.setattr(flows.preflight, "check_key", lambda: None)  # the key was there when the run began
    with pytest.raises(ConfigError, match="private key"):  # it is read when all else is done
        retrained(folder, tmp_path / "w")
    assert versions(workspace, NAME) == []
    done = artifacts(workspace)
    assert {path.split("/")[1] for path in done} >= {"validate", "split", "finetune", "export", "evaluate"}

    monkeypatch.delenv("HEADSTART_SIGNING_KEY")
    resumed = retrained(folder, tmp_path / "w")
    assert (resumed["verdict"], resumed["version"], resumed["images"]["embedded"]) == ("promoted", 1, 0)
    assert done.items() <= artifacts(workspace).items()
    assert finished(workspace) == [resumed["run_id"]]


def test_parameters_are_checked_before_anything_is_read(tmp_path: Path):
    with pytest.raises(ParameterTypeError, match="name"):
        retrain(source=str(tmp_path), name="No Good", workspace=str(tmp_path / "w"))
    assert not (tmp_path / "w").exists()


def artifacts(workspace: Workspace, stage: str = "") -> dict[str, Any]:
    """When each finished artifact was written, by its record's path."""
    files = workspace.files(f"artifacts/{stage}".rstrip("/"))
    return {file.path: file.modified for file in files if file.name == "artifact.json"}


def splits(workspace: Workspace, snapshot: str) -> dict[str, str]:
    table = read_table(workspace, f"snapshots/{snapshot}.parquet", ["sha256", "split"])
    return dict(zip(table["sha256"], table["split"], strict=True))


def finished(workspace: Workspace) -> list[str]:
    return [run for run in workspace.names("runs") if workspace.exists(f"runs/{run}/summary.json")]


def test_a_wrong_configuration_fails_the_run_before_anything_is_read(
    tmp_path: Path, prefect_api: str, monkeypatch: pytest.MonkeyPatch
):
    """As a worker starts it, whose environment configures it, with no command that checked anything before."""
    source = photos.class_folders(tmp_path / "photos", {"red": 4, "blue": 4})
    monkeypatch.setenv("HEADSTART_EVALUATE__GATES", "/absent.toml")
    with pytest.raises(ConfigError, match=r"/absent\.toml does not exist"):
        ended_in(source, tmp_path / "w").result()
    assert not (tmp_path / "w/inspections").exists()


@pytest.mark.usefixtures("first")
def test_all_images_decide_where_the_test_split_has_too_few(place: Place):
    """The gates want at least a hundred images for a comparison: the test split has 42."""
    place = Place(copy_of(place))
    place.gates.write_text(f"{LENIENT}[champion]\nmin_paired_images = 100\nnon_inferiority_margin = 0.1\n")
    photos.class_folders(place.source, dict.fromkeys(CLASSES, 18), start=1000)
    crossed = {"gates": str(place.gates), "cross_fit_s": 120}
    state = ended_in(place.source, place.workspace.url, evaluate=crossed)
    decided = state.result()
    assert (decided["version"], decided["evidence"]) == (2, "all images"), decided["reasons"]
    assert "by all 174 images" in decided["reasons"][0], decided["reasons"]
    assert decided["timings_s"]["cross_fit"] > 0
    decision = place.workspace.read_json(f"runs/{decided['run_id']}/decision.json")
    assert (decision["evidence"], decision["all_images"]["images"]["n"]) == ("all images", 174)
    assert "By all 174 images" in Path(decided["report"]).read_text()
    assert read_manifest(place.workspace, NAME, 2)["decision"]["reasons"] == decided["reasons"]
