"""The gates fail closed, and each says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import ConfigError
from tasks.evaluate.comparison import compare
from tasks.evaluate.fresh_process import FreshProcess
from tasks.evaluate.gates import Findings, gates_file, judge, load_gates
from tasks.evaluate.metrics import class_metrics, summary_metrics
from tasks.evaluate.parity import Parity

GATES = load_gates("gates")
TARGETS = np.arange(120) % 3


def findings(accuracy: float = 0.9) -> Findings:
    predicted = TARGETS.copy()
    wrong = np.arange(120) >= round(120 * accuracy)
    predicted[wrong] = (predicted[wrong] + 1) % 3
    probabilities = np.eye(3)[predicted] * 0.8 + 0.2 / 3
    return Findings(
        labels=("cat", "dog", "owl"),
        targets=TARGETS,
        metrics=summary_metrics(TARGETS, probabilities),
        per_class=class_metrics(TARGETS, predicted, 3),
        parity=Parity(n=120, label_agreement=1.0, max_difference=1e-6),
        fresh_process=FreshProcess(images=8, agreed=8, seconds=0.7, load_s=0.1, slowest_ms=9.0),
        champion_version=None,
        comparison=None,
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
    assert "could not be scored" in refused(replace(findings(), champion_version=3))["champion"]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (None, "no evidence"),
        (FreshProcess(images=8, agreed=7, seconds=0.7), "answered 7 of 8 test images alike"),
        (FreshProcess(images=8, agreed=8, seconds=31.0), "answered 8 of 8"),
        (FreshProcess(images=8, agreed=0, seconds=0.2, problem="it ended with status 1: no"), "ended with status 1"),
    ],
)
def test_a_file_that_does_not_serve_alone_is_refused(found: FreshProcess | None, says: str):
    assert says in refused(replace(findings(), fresh_process=found))["fresh process"]


def test_too_few_test_images_refuse_and_say_what_to_do():
    few = replace(findings(), targets=TARGETS[:6])
    assert "6 test images, at least 15 are asked for; add labelled images" in refused(few)["test images"]


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


def test_a_gates_file_with_a_missing_or_unknown_key_is_refused(tmp_path: Path):
    text = gates_file("gates").read_text()
    file = tmp_path / "own.toml"
    file.write_text(text.replace("min_accuracy =", "min_acuracy ="))
    with pytest.raises(ConfigError, match=r"floors\.min_accuracy: Field required") as caught:
        load_gates(str(file))
    assert "floors.min_acuracy" in str(caught.value)
    with pytest.raises(ConfigError, match="there is no"):
        load_gates(str(tmp_path / "absent.toml"))
