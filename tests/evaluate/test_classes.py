"""Classes that come, go or change their names: what the champion is compared on, and what new ones have to pass."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from PIL import Image

from tasks.evaluate import stage
from tasks.evaluate.classes import class_changes
from tasks.evaluate.parity import Parity
from tasks.records import Candidate
from tasks.storage.tables import VALIDATION, read_table, write_table
from tests.deploy.serving.models import colour_model, publish
from tests.photos import save
from tests.runs import keep_snapshot, make_head_record, make_run

R, G, B = "1 red", "2 green", "3 blue"  # sorted, as their channels are
EACH = 55  # test images of a class: two classes are enough to rule out two points
COLOURS = {R: "#c81414", G: "#14c814", B: "#1414c8"}


@pytest.fixture
def decide(tmp_path, monkeypatch):
    """Evaluates a candidate on test images of each class, against a champion; returns its run and the decision."""
    # The parity with Keras is another test's business.
    parity = Parity(n=30, label_agreement=1.0, max_difference=0.0)
    monkeypatch.setattr(stage, "measure_parity", lambda *args: parity)

    def evaluate(champion, classes, rename=None):
        run = replace(make_run(tmp_path, "s", config={"validate": {"rename": rename or {}}}), name="colours")
        publish(tmp_path, 1, content=colour_model(champion))
        run.workspace.write_bytes(run.path("model.onnx"), colour_model(list(classes)))
        rows = [_image(tmp_path, label, colour, number) for label, colour in classes.items() for number in range(EACH)]
        head = make_head_record(run, keep_snapshot(run, pd.DataFrame(rows)))
        write_table(run.workspace, head.validation_path, pd.DataFrame(columns=VALIDATION.names), VALIDATION)
        candidate = Candidate(head=head, onnx_path=run.path("model.onnx"), sha256="", version=2)
        return run, stage.evaluate(run, candidate)

    return evaluate


def _image(folder, label, colour, number):
    import hashlib

    path = save(folder / "photos" / label / f"{number}.png", Image.new("RGB", (8 + number, 8), colour))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"sha256": digest, "label": label, "split": "test", "path": path.name, "uri": str(path), "group": digest}


def gate(decision, name):
    return next(result for result in decision.gates if result.name == name)


def test_names_are_compared_after_renaming():
    changes = class_changes(["hat", "hound", "eel"], ["dog", "fox", "hat"], {"hound": "dog", "cap": "hat"})
    assert (changes.shared, changes.added, changes.removed) == (("dog", "hat"), ("fox",), ("eel",))
    assert changes.renamed == {"hound": "dog"}
    assert changes.sentence() == "new fox; removed eel; renamed hound to dog"
    assert class_changes(["a"], ["a"], {}).sentence() == ""


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
    assert f"3 blue (0.00 of {EACH}) (at least 0.50)" in refused.reason


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
