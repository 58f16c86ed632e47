"""The evaluation stage: a real candidate on the original images, and against a champion of other classes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tasks.errors import DamagedFileError, SourceChangedError
from tasks.evaluate import stage
from tasks.evaluate.parity import Parity
from tasks.evaluate.stage import PREDICTIONS, evaluate, rules
from tasks.modality.images.augmentation import policy_of
from tasks.modality.images.content import decode
from tasks.networks.classifier import Classifier
from tasks.records import Candidate, Decision, Run
from tasks.storage.repository import write_version
from tasks.storage.snapshots import read_snapshot
from tasks.storage.tables import LOGITS, read_table, write_table
from tests import photos
from tests.deploy.serving.models import colour_model, publish
from tests.extractors import exported
from tests.flows.retraining import LENIENT, TINY
from tests.runs import keep_snapshot, make_head_record, make_run
from tests.stages import candidate_of

# A real candidate: trained, exported, and judged by its own file.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Candidate]:
    """The stages before the evaluation as the flow runs them, without Prefect."""
    folder = tmp_path_factory.mktemp("stage")
    source = photos.class_folders(folder / "photos", {"red": 30, "green": 30, "blue": 30})
    (folder / "gates.toml").write_text(LENIENT)
    run = make_run(folder / "w", source, config={**TINY, "evaluate": {"gates": str(folder / "gates.toml")}})
    return run, candidate_of(run, exported(run, policy_of(run.config)))


@pytest.fixture(scope="module")
def decision(trained: tuple[Run, Candidate]) -> Decision:
    return evaluate(*trained)


def written(run: Run) -> dict:
    def refuse(number: str) -> None:
        raise AssertionError(f"{number} is no JSON")

    return json.loads(run.workspace.read_bytes(run.path("decision.json")), parse_constant=refuse)


def with_gates(run: Run, file: Path, text: str) -> Run:
    """The run under other gates, with a folder of its own."""
    file.write_text(text)
    return replace(run, run_id=file.stem, config=run.config.with_keys({"evaluate.gates": str(file)}))


def test_a_good_first_model_is_promoted(trained: tuple[Run, Candidate], decision: Decision):
    _, candidate = trained
    assert decision.promote, decision.reasons
    assert decision.reasons[0].startswith("champion: this is the first model")
    assert (decision.candidate, decision.champion_version) == (candidate, None)
    assert {gate.name: gate.passed for gate in decision.gates}["parity of labels"] is True
    assert all(gate.passed is not False for gate in decision.gates)


def test_the_file_itself_is_asked_about_the_original_bytes_of_each_test_image(
    trained: tuple[Run, Candidate], decision: Decision
):
    run, candidate = trained
    predictions = read_table(run.workspace, run.path("predictions.parquet"))
    snapshot = read_snapshot(run.workspace, candidate.head.features.snapshot.id, ["sha256", "split", "label"])
    assert set(predictions["sha256"]) == set(snapshot.loc[snapshot["split"] != "train", "sha256"])
    assert list(predictions.columns) == PREDICTIONS.names

    classifier = Classifier(run.workspace.local_file(candidate.onnx_path))
    test = predictions[predictions["split"] == "test"]
    answers = np.stack([classifier.probabilities(decode(Path(uri).read_bytes(), 10**6)) for uri in test["uri"]])
    np.testing.assert_allclose(np.stack(test["probabilities"].to_list()), answers, atol=1e-6)
    labels = np.array(candidate.head.features.snapshot.labels)
    assert (labels[answers.argmax(axis=1)] == test["predicted"]).all()
    assert decision.metrics["test"]["n"] == len(test)
    assert decision.metrics["test"]["accuracy"] == pytest.approx((test["predicted"] == test["label"]).mean())
    assert predictions["champion_predicted"].isna().all()


def test_the_validation_images_have_the_answers_of_the_training(trained: tuple[Run, Candidate], decision: Decision):
    run, candidate = trained
    predictions = read_table(run.workspace, run.path("predictions.parquet")).set_index("sha256")
    kept = read_table(run.workspace, candidate.head.validation_path).set_index("sha256")
    validation = predictions[predictions["split"] == "validation"]
    assert set(validation.index) == set(kept.index)
    logits = np.stack(kept.loc[validation.index, "logits"].to_list()) / candidate.head.temperature
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.stack(validation["probabilities"].to_list()), expected, atol=1e-5)
    assert decision.metrics["validation"]["n"] == len(validation)


def test_the_decision_is_written_with_its_evidence(trained: tuple[Run, Candidate], decision: Decision):
    run, candidate = trained
    found = written(run)
    assert (found["verdict"], found["promote"], found["reasons"]) == ("promoted", True, list(decision.reasons))
    assert found["candidate"] == {"onnx_path": candidate.onnx_path, "sha256": candidate.sha256, "version": 1}
    assert [gate["name"] for gate in found["gates"]] == [gate.name for gate in decision.gates]
    assert [row["label"] for row in found["per_class"]["test"]] == ["blue", "green", "red"]
    assert found["size_bytes"] == len(run.workspace.read_bytes(candidate.onnx_path))
    assert found["calibration"]["temperature"] == candidate.head.temperature
    assert {change["kind"] for change in found["robustness"]} == {"JPEG", "blur", "brightness", "rotation"}
    assert (found["comparison"], found["classes"], found["override"]) == (None, None, None)


def test_a_refusal_is_a_value_and_is_written_like_a_promotion(trained: tuple[Run, Candidate], tmp_path: Path):
    run = with_gates(trained[0], tmp_path / "strict.toml", f"{LENIENT}[evidence]\nmin_test_images = 10000\n")
    seen = []
    refused = evaluate(run, trained[1], lambda: seen.append(1))
    assert refused.promote is False
    assert len(refused.reasons) == 1
    assert "(at least 10000)" in refused.reasons[0]
    assert len(seen) == refused.metrics["test"]["n"]
    assert (written(run)["verdict"], written(run)["promote"]) == ("refused", False)
    assert run.workspace.exists(run.path("predictions.parquet"))


def test_a_file_that_is_not_what_keras_trained_is_refused(trained: tuple[Run, Candidate], tmp_path: Path):
    """The parity is real: another head's answers are not those of this file."""
    run = with_gates(trained[0], tmp_path / "other.toml", LENIENT)
    hotter = replace(trained[1].head, temperature=trained[1].head.temperature * 3)
    refused = evaluate(run, replace(trained[1], head=hotter))
    assert [gate.name for gate in refused.gates if gate.passed is False] == ["parity of probabilities"]


def test_the_same_model_again_is_compared_with_the_champion_image_by_image(
    trained: tuple[Run, Candidate], decision: Decision, tmp_path: Path
):
    run = with_gates(trained[0], tmp_path / "again.toml", LENIENT)
    content = run.workspace.read_bytes(trained[1].onnx_path)
    before = rules(run, replace(trained[1], version=2))
    write_version(run.workspace, run.name, 1, {"model.onnx": content}, {"labels": ["blue", "green", "red"]}, "")
    assert rules(run, replace(trained[1], version=2)) != before  # the decision depends on the champion
    assert rules(run, trained[1]) == before  # which is none to its own version
    second = evaluate(run, replace(trained[1], version=2))
    comparison = written(run)["comparison"]
    assert (comparison["n"], comparison["won"], comparison["lost"]) == (decision.metrics["test"]["n"], 0, 0)
    assert second.champion_version == 1
    predictions = read_table(run.workspace, run.path("predictions.parquet"))
    test = predictions[predictions["split"] == "test"]
    assert (test["champion_predicted"] == test["predicted"]).all()


def test_an_image_that_changed_since_is_named(trained: tuple[Run, Candidate], tmp_path: Path):
    run = with_gates(trained[0], tmp_path / "changed.toml", LENIENT)
    table = read_snapshot(run.workspace, trained[1].head.features.snapshot.id, ["uri", "split"])
    path = Path(table.loc[table["split"] == "test", "uri"].iloc[0])
    content = path.read_bytes()
    path.write_bytes(photos.encoded(photos.photo(12345)))
    try:
        with pytest.raises(SourceChangedError, match=path.name):
            evaluate(run, trained[1])
    finally:
        path.write_bytes(content)


# Files of a few operators, whose answers are known: what a champion of other classes is compared on.

R, G, B = "1 red", "2 green", "3 blue"  # sorted, as their channels are
EACH = 55  # test images of a class: two classes are enough to rule out two points
COLOURS = {R: "#c81414", G: "#14c814", B: "#1414c8"}


@pytest.fixture
def decide(tmp_path, monkeypatch):
    """Evaluates a candidate on test images of each class, against a champion; returns its run and the decision."""
    # The parity with Keras is another test's business.
    parity = Parity(n=30, label_agreement=1.0, max_difference=0.0)
    monkeypatch.setattr(stage, "measure_parity", lambda *args: parity)

    def evaluate(champion, classes, rename=None, arrived=()):
        run = replace(make_run(tmp_path, "s", config={"validate": {"rename": rename or {}}}), name="colours")
        run.workspace.write_bytes(run.path("model.onnx"), content := colour_model(list(classes), familiarity=True))
        said = {"threshold": 0.5, "familiar_share": 0.95, "unknown_classes": None}
        run.workspace.write_json(run.path("familiarity.json"), said)
        rows = [_image(tmp_path, label, colour, number) for label, colour in classes.items() for number in range(EACH)]
        before = keep_snapshot(run, pd.DataFrame(rows))
        publish(tmp_path, 1, content=colour_model(champion), labels=champion, lineage={"snapshot": before.id})
        head = make_head_record(run, keep_snapshot(run, pd.DataFrame([*rows, *arrived])))
        logits = np.eye(len(classes))[[list(classes).index(row["label"]) for row in arrived]]
        validation = pd.DataFrame({"sha256": [row["sha256"] for row in arrived], "logits": list(logits)}, dtype=object)
        write_table(run.workspace, head.validation_path, validation, LOGITS)
        candidate = Candidate(
            head=head, onnx_path=run.path("model.onnx"), sha256=hashlib.sha256(content).hexdigest(), version=2
        )
        return run, stage.evaluate(run, candidate)

    return evaluate


def _image(folder, label, colour, number, split="test"):
    path = photos.save(folder / "photos" / label / f"{number}.png", Image.new("RGB", (8 + number, 8), colour))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"sha256": digest, "label": label, "split": split, "path": path.name, "uri": str(path), "group": digest}


def gate(decision, name):
    return next(result for result in decision.gates if result.name == name)


def test_an_added_class_is_no_part_of_the_comparison_and_passes_a_floor_of_its_own(decide):
    run, decision = decide([R, G], COLOURS)
    assert decision.promote, decision.reasons
    assert f"on the same {2 * EACH} test images of the 2 classes that both have (new 3 blue)" in decision.reasons[0]
    assert gate(decision, "new classes").value == 1.0
    written = run.workspace.read_json(run.path("decision.json"))
    assert (written["classes"]["added"], written["comparison"]["n"]) == ([B], 2 * EACH)
    predictions = read_table(run.workspace, run.path("predictions.parquet"))
    assert set(predictions.loc[predictions["champion_predicted"].isna(), "label"]) == {B}


def test_an_added_class_that_is_not_recognised_is_refused_by_name(decide):
    _, decision = decide([R, G], {**COLOURS, B: "#c81414"})  # what is labelled blue looks red
    assert gate(decision, "champion").passed  # it is as good as before on what the champion knows
    refused = gate(decision, "new classes")
    assert refused.passed is False
    assert refused.reason.endswith(
        f"significantly below 0.50 for classes that the champion does not have: 3 blue (0.00 of {EACH})"
    )


@pytest.mark.parametrize("wrong", [True, False])
def test_a_refusal_names_new_labels_that_contradict_the_champion(decide, tmp_path, wrong: bool):
    """Sixty photographs arrived, each with the label of the other colour or with its own."""
    arrived = [
        _image(tmp_path / "new", label, COLOURS[(G if label == R else R) if wrong else label], number, "validation")
        for label in (R, G)
        for number in range(EACH, EACH + 30)
    ]
    run, refused = decide([R, G], {**COLOURS, B: "#c81414"}, arrived=arrived)
    named = [reason.partition(":")[0] for reason in refused.reasons]
    assert (named[0], "new labels" in named) == ("class recall", wrong)
    if not wrong:
        return
    assert "the labels of the 60 new images contradict the champion (0.0% right" in refused.reasons[-1]
    assert gate(refused, "new labels").passed is None
    assert run.workspace.read_json(run.path("decision.json"))["reasons"] == list(refused.reasons)


def test_a_removed_class_is_stated(decide):
    run, decision = decide([R, G, B], {R: COLOURS[R], G: COLOURS[G]})
    assert decision.promote, decision.reasons
    assert "of the 2 classes that both have (removed 3 blue)" in decision.reasons[0]
    assert run.workspace.read_json(run.path("decision.json"))["classes"]["removed"] == [B]
    assert "new classes" not in {result.name for result in decision.gates}


def test_what_the_champion_says_of_a_renamed_class_is_understood(decide):
    _, decision = decide(["crimson", G, B], COLOURS, rename={"crimson": R})
    assert decision.promote, decision.reasons
    assert f"1.000 against version 1's 1.000 on the same {3 * EACH} test images" in decision.reasons[0]
    assert "renamed crimson to 1 red" in decision.reasons[0]


def test_a_renaming_that_nobody_declared_is_another_class(decide):
    _, decision = decide(["crimson", G, B], COLOURS)
    assert "of the 2 classes that both have (new 1 red; removed crimson)" in gate(decision, "champion").reason


def test_without_a_shared_class_there_is_no_evidence(decide):
    _, decision = decide(["hat", "shoe"], COLOURS)
    refused = gate(decision, "champion")
    assert refused.passed is False
    assert "the models share no class with a test image" in refused.reason


def test_a_file_that_changed_since_it_was_exported_is_not_judged(trained: tuple[Run, Candidate]):
    with pytest.raises(DamagedFileError, match="changed after it was exported"):
        evaluate(trained[0], replace(trained[1], sha256="0" * 64))
