"""What all images say of champion and challenger, and when an undecided challenger is promoted."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.evaluate import champion_gate
from tasks.evaluate.all_images import (
    AllImages,
    Pairs,
    compare_all,
    compare_pairs,
    grew,
    signs_of_worse,
)
from tasks.evaluate.comparison import CROSS_FITTED_VARIANCE, interval_of
from tasks.evaluate.new_labels import NewLabels, judge_new_labels
from tasks.evaluate.thresholds import ChampionPolicy, load_gates
from tasks.evaluate.weigh import weigh
from tasks.records import Candidate, CrossFitted, Decision, GateResult, Run, Snapshot
from tasks.storage.corrections import Correction, decide
from tasks.storage.repository import write_version
from tasks.storage.tables import LOGITS, read_table, write_table
from tasks.workspace import Workspace
from tests import photos
from tests.deploy.serving.models import colour_model
from tests.runs import keep_snapshot, make_head_record, make_run

POLICY: ChampionPolicy = load_gates("gates", "any").champion
NO_NEW = NewLabels(n=0, accuracy=0.0, expected=0.0, contradict=False)


def pairs(n: int, *, won: int = 0, lost: int = 0, test: int = 0, new: int = 0) -> Pairs:
    """`n` images, both right but for those that one of the two wins; the first are of the test split, the last new."""
    champion, challenger = np.ones(n, bool), np.ones(n, bool)
    spread = np.random.default_rng(0).permutation(n)
    champion[spread[:won]] = False
    challenger[spread[won : won + lost]] = False
    places = np.arange(n)
    return Pairs(
        champion_right=champion,
        challenger_right=challenger,
        test=places < test,
        new=places >= n - new,
        groups=places,
    )


def found(given: Pairs, labels: NewLabels = NO_NEW) -> AllImages:
    return compare_pairs(given, labels, POLICY)


def test_equal_answers_to_150_images_are_equivalent_and_to_100_are_not():
    assert found(pairs(150, test=15)).outcome == "equivalent"
    assert found(pairs(100, test=15)).outcome == "not-enough-data"


def test_better_and_worse_need_more_than_chance():
    assert found(pairs(600, won=45, lost=10, test=60)).outcome == "better"
    assert found(pairs(600, won=10, lost=45, test=60)).outcome == "worse"
    assert found(pairs(600, won=30, lost=28, test=60)).outcome == "not-enough-data"


def test_each_kind_of_image_is_counted_by_itself():
    whole = found(pairs(100, test=20, new=30))
    assert (whole.images.n, whole.test.n, whole.old.n, whole.new.n) == (100, 20, 50, 30)


def test_cross_fitted_images_weigh_less_than_test_images_and_copies_as_one():
    differences, apart = np.array([1, -1] * 50), np.arange(100)
    tested = interval_of(differences, apart, np.zeros(100, bool))
    crossed = interval_of(differences, apart, np.ones(100, bool))
    assert crossed.error / tested.error == pytest.approx(CROSS_FITTED_VARIANCE**0.5, rel=0.02)
    # Fifty groups of two copies, whose answers are the same.
    twice = interval_of(np.repeat([1, -1], 50), np.arange(100) // 2, np.zeros(100, bool))
    assert twice.error / tested.error == pytest.approx(2**0.5, rel=0.02)


def test_labels_that_the_champion_expects_to_miss_are_no_contradiction():
    """Images chosen because it is unsure of them, of which it gets as few right as it says."""
    right = np.arange(60) % 2 == 0
    assert not judge_new_labels(np.full(60, 0.5), right, 0.95, 0.05).contradict
    assert judge_new_labels(np.full(60, 0.95), right, 0.95, 0.05).contradict
    assert not judge_new_labels(np.zeros(0), np.zeros(0, bool), 0.95, 0.05).contradict


def gate(outcome: AllImages, **policy: Any) -> GateResult:
    return champion_gate.by_all_images(POLICY.model_copy(update=policy), outcome, 3)


def test_an_undecided_challenger_whose_data_grew_is_promoted_and_the_reason_says_so():
    result = gate(found(pairs(300, won=14, lost=12, test=30, new=50)))
    assert result.passed
    assert result.reason.startswith("promoted as grown, by all 300 images: 0.960 against version 3's 0.953")
    assert "(30 test images by both files, 220 old and 50 new ones by cross-fitting)" in result.reason
    assert "nothing speaks for worse" in result.reason


def test_the_policy_may_refuse_whatever_is_undecided():
    result = gate(found(pairs(300, won=14, lost=12, test=30)), undecided="refuse")
    assert result.passed is False
    assert "images would decide" in result.reason
    assert "split.test_share" in result.reason
    assert "headstart promote" in result.reason


@pytest.mark.parametrize("undecided", ["refuse", "promote-if-grown"])
def test_worse_is_refused_and_better_promoted_by_any_policy(undecided: str):
    assert gate(found(pairs(600, won=10, lost=45)), undecided=undecided).passed is False
    assert gate(found(pairs(600, won=45, lost=10)), undecided=undecided).passed


def test_signs_of_worse_keep_an_undecided_challenger_back():
    down = found(pairs(300, won=10, lost=16, test=30))
    assert down.outcome == "not-enough-data"
    assert "more than half the margin" in signs_of_worse(POLICY, down)[0]
    wrong = judge_new_labels(np.full(50, 0.9), np.arange(50) < 20, 0.95, 0.05)
    [sign] = signs_of_worse(POLICY, found(pairs(300, won=14, lost=12, test=30, new=50), wrong))
    assert "the labels of the 50 new images contradict the champion (40.0% right where 90.0% were expected)" in sign
    kept_back = gate(replace(found(pairs(300, won=14, lost=12)), obstacles=(sign,)))
    assert kept_back.passed is False
    assert sign in kept_back.reason


def test_new_labels_that_the_challenger_learned_to_predict_are_news_and_no_error():
    """A new camera: the champion fails on its images, and heads trained on others of them don't."""
    wrong = judge_new_labels(np.full(50, 0.9), np.arange(50) < 20, 0.95, 0.05)
    assert signs_of_worse(POLICY, compare_pairs(_new_camera(), wrong, POLICY)) == []


def _new_camera() -> Pairs:
    learned = pairs(300, new=50)
    learned.champion_right[-30:] = False
    return learned


# With files: a champion of two colours, cross-fitted predictions of both, and images that arrived since.

RED, GREEN, BLUE = "1 red", "2 green", "3 blue"
COLOURS = {RED: "#c81414", GREEN: "#14c814", BLUE: "#1414c8"}


@pytest.fixture
def compared(tmp_path):
    """Compares a challenger on 60 test, 60 old and 30 new images; the champion's file is right on all of them."""

    def compare(
        *, fitted: bool = True, settings: dict[str, Any] | None = None, relabelled: int = 0
    ) -> tuple[Run, Decision, AllImages]:
        run = make_run(tmp_path / "w", "s", config={"finetune": settings or {}})
        rows = [_row(tmp_path, number) for number in range(150)]
        table = pd.DataFrame(rows)
        before = table[:120].copy()
        before.loc[60 : 59 + relabelled, "label"] = before.loc[60 : 59 + relabelled, "label"].map(
            {RED: GREEN, GREEN: RED}
        )
        old = keep_snapshot(run, before)
        now = keep_snapshot(run, table)
        manifest = {
            "labels": [RED, GREEN],
            "lineage": {
                "snapshot": old.id,
                "recipe": "r",
                "config": {"finetune": make_run(tmp_path, "s").config.finetune.model_dump(mode="json")},
            },
        }
        write_version(run.workspace, run.name, 1, {"model.onnx": colour_model([RED, GREEN])}, manifest, "")
        tested = table[:60].assign(predicted=table["label"][:60], champion_predicted=table["label"][:60], split="test")
        run.workspace.write_json(run.path("decision.json"), {"promote": False})
        write_table(run.workspace, run.path("predictions.parquet"), tested, _PREDICTIONS)
        decision = undecided(run, now)
        challenger = _cross_fitted(run, decision.candidate.head.features, table[60:], "challenger", wrong=6)
        champion = _cross_fitted(run, make_head_record(run, old).features, table[60:120], "champion", wrong=9)
        whole = compare_all(run, decision, challenger, champion if fitted else None, POLICY, 0.05)
        again = replace(run, artifact="artifacts/weigh/k")
        return again, weigh(again, decision, challenger, champion if fitted else None), whole

    return compare


_PREDICTIONS = LOGITS.empty_table().schema.remove(1)
for _name in ("split", "predicted", "champion_predicted"):
    _PREDICTIONS = _PREDICTIONS.append(LOGITS.field("sha256").with_name(_name))


def undecided(run: Run, snapshot: Snapshot) -> Decision:
    """A decision that the test split leaves open, by this run."""
    gate = GateResult(name="champion", passed=False, value=0, threshold=0, reason="not enough data")
    return Decision(
        candidate=Candidate(head=make_head_record(run, snapshot), onnx_path="", sha256="", version=2),
        promote=False,
        reasons=(),
        gates=(gate,),
        folder=run.folder,
        champion_version=1,
        undecided=True,
    )


def _row(folder, number: int) -> dict[str, Any]:
    label = (RED, GREEN)[number % 2]
    path = photos.save(folder / f"{number}.png", photos.Image.new("RGB", (8 + number, 8), COLOURS[label]))
    split = "test" if number < 60 else "validation" if number % 5 == 0 else "train"
    digest = f"{number:064x}" if number < 120 else hashlib.sha256(path.read_bytes()).hexdigest()
    return {"sha256": digest, "label": label, "split": split, "path": path.name, "uri": str(path), "group": digest}


def _cross_fitted(run: Run, features, table: pd.DataFrame, folder: str, wrong: int) -> CrossFitted:
    """Predictions for these images, of which the first `wrong` are wrong."""
    right = np.array([label == RED for label in table["label"]])
    right[:wrong] = ~right[:wrong]
    logits = [[1.0, 0.0] if red else [0.0, 1.0] for red in right]
    fitted = CrossFitted(features=features, folder=folder)
    write_table(run.workspace, fitted.path, table.assign(logits=pd.Series(logits, table.index)), LOGITS)
    return fitted


def test_the_champions_file_answers_for_what_it_never_saw(compared):
    _, _, whole = compared()
    assert (whole.test.n, whole.old.n, whole.new.n) == (60, 60, 30)
    assert (whole.won, whole.lost) == (3, 0)
    assert (whole.new_labels.n, whole.new_labels.accuracy, whole.new_labels.contradict) == (30, 1.0, False)
    assert whole.obstacles == ()


def test_the_decision_is_written_again_with_what_decided(compared):
    run, weighed, whole = compared()
    assert (weighed.promote, weighed.evidence, weighed.undecided) == (True, "all images", False)
    written = run.workspace.read_json(run.path("decision.json"))
    assert (written["promote"], written["verdict"], written["evidence"]) == (True, "promoted", "all images")
    assert written["all_images"]["images"]["n"] == whole.images.n == 150
    assert [each["name"] for each in written["gates"]] == ["champion"]
    predictions = read_table(run.workspace, f"{weighed.folder}/predictions.parquet")
    assert set(predictions["split"]) == {"test"}


def test_without_the_champions_cross_fitting_old_images_are_no_evidence(compared):
    _, _, whole = compared(fitted=False)
    assert (whole.test.n, whole.old.n, whole.new.n) == (60, 0, 30)


def test_data_grew_where_more_images_are_new_than_changed():
    assert grew(30, 4, 100, POLICY)
    assert not grew(0, 0, 100, POLICY), "the champion's own data is no growth"
    assert not grew(4, 4, 100, POLICY)
    assert not grew(30, 6, 100, POLICY), "more than max_changed_share"


def test_what_a_person_corrected_is_no_obstacle_and_what_the_source_relabelled_is(compared):
    _, _, whole = compared(relabelled=40)
    [obstacle] = whole.obstacles
    assert obstacle.endswith("30 images are new or corrected by a person, 40 are gone or relabelled in the source")


def test_corrections_count_as_new_images(compared, tmp_path: Path):
    for number in range(60, 100):
        label = (RED, GREEN)[number % 2]
        assert decide(Workspace(str(tmp_path / "w")), Correction(sha256=f"{number:064x}", label=label))
    _, _, whole = compared(relabelled=40)
    assert whole.obstacles == ()


def test_other_settings_are_an_obstacle_that_names_them(compared):
    _, _, whole = compared(settings={"learning_rate": 0.01})
    assert whole.obstacles == ("it was made with other settings than the champion (learning_rate)",)


def test_where_cross_fitting_was_not_done_the_refusal_stands_and_says_so(compared, tmp_path):
    run, _, _ = compared()
    decision = undecided(run, keep_snapshot(run, pd.DataFrame([_row(tmp_path, 1)])))
    missing = CrossFitted(features=decision.candidate.head.features, folder="f", missing="evaluate.cross_fit_s is 0")
    refused = weigh(run, decision, missing, None)
    assert (refused.promote, refused.evidence) == (False, "test split")
    assert refused.reasons == ("champion: not enough data. All images could not be asked: evaluate.cross_fit_s is 0",)
