"""The gates fail closed, and each says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import ConfigError
from tasks.evaluate.comparison import compare, compare_classes
from tasks.evaluate.findings import Findings
from tasks.evaluate.fresh_process import FreshProcess
from tasks.evaluate.gate_rule import HOLDS
from tasks.evaluate.gates import judge
from tasks.evaluate.latency import Latency
from tasks.evaluate.metrics import class_metrics, summary_metrics
from tasks.evaluate.parity import Parity
from tasks.evaluate.robustness import Changed
from tasks.evaluate.thresholds import load_gates

GATES = load_gates("gates", "clothing")
TARGETS = np.arange(120) % 3


def findings(accuracy: float = 0.9) -> Findings:
    predicted = TARGETS.copy()
    wrong = np.arange(120) >= round(120 * accuracy)
    predicted[wrong] = (predicted[wrong] + 1) % 3
    probabilities = np.eye(3)[predicted] * 0.85 + 0.05
    return Findings(
        labels=("cat", "dog", "owl"),
        targets=TARGETS,
        probabilities=probabilities,
        metrics=summary_metrics(TARGETS, probabilities),
        per_class=class_metrics(TARGETS, predicted, 3),
        parity=Parity(n=120, label_agreement=1.0, max_difference=1e-6),
        fresh_process=FreshProcess(images=8, agreed=8, seconds=0.7, load_s=0.1, slowest_ms=9.0),
        latency=Latency(runs=90, image_size_px=224, median_ms=7.0, p95_ms=9.0, interval_ms=(8.0, 11.0)),
        size_bytes=9_000_000,
        robustness=[changed("JPEG", 0.02), changed("blur", 0.0)],
        champion_version=None,
        comparison=None,
        class_comparisons=None,
    )


def changed(kind: str, drop: float) -> Changed:
    return Changed(
        kind=kind,
        strength="mild",
        n=48,
        accuracy_before=0.9,
        accuracy=0.9 - drop,
        drop=drop,
        interval=(drop - 0.05, drop + 0.05),
    )


def refused(found: Findings) -> dict[str, str]:
    return {result.name: result.reason for result in judge(GATES, found) if result.passed is False}


def test_a_good_first_model_passes_its_floors_and_the_champion_gate_does_not_apply():
    results = {result.name: result.passed for result in judge(GATES, findings())}
    assert results.pop("champion") is None
    assert all(results.values())


def test_a_weak_first_model_is_not_waved_through():
    assert {"accuracy", "macro F1", "better than guessing"} <= refused(findings(0.3)).keys()


def test_missing_evidence_refuses():
    assert {"parity of labels", "parity of probabilities"} <= refused(replace(findings(), parity=None)).keys()
    assert "can't be loaded" in refused(replace(findings(), champion_version=3))["champion"]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (None, "no evidence"),
        (FreshProcess(images=8, agreed=7, seconds=0.7), "the same class for 7 of 8 test images"),
        (FreshProcess(images=8, agreed=8, seconds=31.0), "the same class for 8 of 8"),
        (FreshProcess(images=8, agreed=0, seconds=0.2, problem="it ended with status 1: no"), "ended with status 1"),
    ],
)
def test_a_file_that_does_not_serve_alone_is_refused(found: FreshProcess | None, says: str):
    assert says in refused(replace(findings(), fresh_process=found))["fresh process"]


def test_too_few_test_images_refuse_and_say_what_to_do():
    few = replace(findings(), targets=TARGETS[:6], probabilities=findings().probabilities[:6])
    assert "6 test images (at least 15); add labelled images" in refused(few)["test images"]


def test_a_class_without_test_images_refuses():
    unseen = class_metrics(TARGETS[TARGETS < 2], TARGETS[TARGETS < 2], 3)
    assert "no test image of owl" in refused(replace(findings(), per_class=unseen))["class recall"]


def test_a_class_that_is_lost_refuses_by_name():
    predicted = np.where(TARGETS == 1, 0, TARGETS)
    lost = replace(findings(), per_class=class_metrics(TARGETS, predicted, 3))
    assert "dog (0.00 of 40)" in refused(lost)["class recall"]


@pytest.mark.parametrize(("label_agreement", "difference"), [(0.99, 1e-6), (1.0, 2e-4)])
def test_a_file_that_differs_from_keras_is_refused(label_agreement: float, difference: float):
    parity = Parity(n=120, label_agreement=label_agreement, max_difference=difference)
    assert len(refused(replace(findings(), parity=parity))) == 1


def test_a_worse_challenger_is_refused_and_an_equal_one_is_not():
    champion = np.ones(120, bool)
    worse = champion.copy()
    worse[:20] = False
    options = {"margin": 0.02, "confidence": 0.95, "min_images": 15}
    told = replace(findings(), champion_version=1, comparison=compare(champion, worse, **options))
    assert refused(told)["champion"].startswith("worse: 0.833 against version 1's 1.000")
    same = replace(findings(), champion_version=1, comparison=compare(champion, champion, **options))
    assert refused(same) == {}


@pytest.mark.parametrize(
    ("changes", "gate"),
    [
        ({"latency": None}, "latency"),
        ({"size_bytes": None}, "size"),
        ({"robustness": []}, "robustness"),
        ({"fresh_process": None}, "fresh process"),
        ({"targets": TARGETS[:0], "probabilities": np.zeros((0, 3))}, "calibration error"),
    ],
)
def test_each_gate_refuses_without_evidence_and_nobody_can_override_that(changes: dict[str, object], gate: str):
    found = replace(findings(), **changes)
    [missing] = [result for result in judge(GATES, found) if result.name == gate]
    assert (missing.passed, missing.value, missing.overridable) == (False, None, False)
    assert "no evidence" in missing.reason


def test_a_slow_a_large_and_a_brittle_file_are_refused_each_by_name():
    slow = Latency(runs=5, image_size_px=224, median_ms=700.0, p95_ms=800.0, interval_ms=(700.0, 900.0))
    bad = replace(findings(), latency=slow, size_bytes=151_000_000, robustness=[changed("JPEG", 0.4)])
    assert refused(bad).keys() == {"latency", "size", "robustness to JPEG"}
    assert "800.0 ms or less on one thread" in refused(bad)["latency"]


def test_probabilities_that_promise_too_much_are_refused_and_noise_is_not():
    rng = np.random.default_rng(3)
    right = rng.random(120) < 0.6
    predicted = np.where(right, TARGETS, (TARGETS + 1) % 3)
    boastful = replace(findings(), probabilities=np.eye(3)[predicted] * 0.98 + 0.02 / 3)
    boastful = replace(boastful, metrics=summary_metrics(TARGETS, boastful.probabilities))
    assert "calibration error" in refused(boastful)
    honest = replace(findings(), probabilities=np.eye(3)[predicted] * 0.4 + 0.2)
    honest = replace(honest, metrics=summary_metrics(TARGETS, honest.probabilities))
    assert "calibration error" not in refused(honest)


def test_every_gate_that_ran_says_what_it_looked_at():
    assert all(result.evidence for result in judge(GATES, findings()) if result.passed is not None)


def test_a_class_that_got_worse_is_refused_by_name_unless_the_policy_says_otherwise():
    labels = ["cat"] * 60 + ["dog"] * 60
    champion, challenger = np.ones(120, bool), np.ones(120, bool)
    challenger[:10] = False
    champion[60:75] = False
    told = replace(
        findings(),
        champion_version=1,
        comparison=compare(champion, challenger, margin=0.02, confidence=0.95, min_images=15),
        class_comparisons=compare_classes(labels, champion, challenger),
    )
    assert "cat (0 won, 10 lost of 60)" in refused(told)["class regressions"]
    lenient = GATES.model_copy(
        update={"champion": GATES.champion.model_copy(update={"refuse_class_regressions": False})}
    )
    [said] = [result for result in judge(lenient, told) if result.name == "class regressions"]
    assert said.passed is None
    assert "cat" in said.reason


def test_not_enough_data_says_how_much_is_needed():
    champion = np.ones(120, bool)
    challenger = champion.copy()
    champion[:5] = challenger[5:10] = False
    few = compare(champion, challenger, margin=0.02, confidence=0.95, min_images=15)
    reason = refused(replace(findings(), champion_version=1, comparison=few))["champion"]
    assert few.outcome == "not-enough-data"
    assert "takes about 1,521 test images" in reason


def test_a_file_says_only_what_differs_and_a_model_has_its_own(tmp_path: Path):
    file = tmp_path / "own.toml"
    file.write_text("[floors]\nmin_accuracy = 0.7\n\n[model.hats.floors]\nmin_accuracy = 0.9\n")
    own, hats, shipped = load_gates(str(file), "shoes"), load_gates(str(file), "hats"), load_gates("gates", "hats")
    assert (own.floors.min_accuracy, hats.floors.min_accuracy) == (0.7, 0.9)
    assert own.floors.min_macro_f1 == shipped.floors.min_macro_f1
    assert len({own.digest(), hats.digest(), shipped.digest()}) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[floors]\nmin_acuracy = 0.5\n", r"floors\.min_acuracy: Extra inputs"),
        ("[flors]\nmin_accuracy = 0.5\n", "flors: Extra inputs"),
        ("[model.hats.floors]\nmin_accuracy = 5\n", r"floors\.min_accuracy: .* less than or equal to 1"),
        ("[model]\nhats = 3\n", r"such as \[model\.hats\.floors\]"),
        ("[floors", "not valid TOML"),
    ],
)
def test_a_gates_file_with_a_bad_key_or_value_is_refused(tmp_path: Path, text: str, says: str):
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_gates(str(file), "hats")
    with pytest.raises(ConfigError, match="does not exist"):
        load_gates(str(tmp_path / "absent.toml"), "hats")


@pytest.mark.parametrize("accuracy", [0.9, 0.3])
def test_each_result_follows_from_the_bound_that_it_shows(accuracy: float):
    results = [result for result in judge(GATES, findings(accuracy)) if result.passed is not None]
    assert {result.passed for result in results} == ({True} if accuracy > 0.5 else {True, False})
    for result in results:
        judged = result.value if result.judged is None else result.judged
        assert HOLDS[result.rule](judged, result.threshold) == result.passed, result.name
        assert result.unit or result.name == "parity of probabilities"


def test_a_gate_that_passes_by_the_end_of_its_interval_shows_that_end():
    results = {result.name: result for result in judge(GATES, replace(findings(), robustness=[changed("JPEG", 0.12)]))}
    drop = results["robustness to JPEG"]
    assert (drop.passed, drop.rule, drop.unit) == (True, "at most", "points")
    assert drop.judged == pytest.approx(0.07)
    assert drop.judged <= drop.threshold < drop.value  # type: ignore[operator]
