"""The gates: thresholds from `expectations/`, evidence from this run, a decision with its reasons.

They fail closed: what was not measured is not passed.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError

import expectations
from tasks.artifacts import GateResult
from tasks.config import Section
from tasks.errors import ConfigError
from tasks.evaluate.classes import ClassChanges
from tasks.evaluate.comparison import Comparison
from tasks.evaluate.fresh_process import FreshProcess
from tasks.evaluate.metrics import majority_share, wilson_interval
from tasks.evaluate.parity import Parity


class Evidence(Section):
    min_test_images: int = Field(ge=1)


class Floors(Section):
    min_accuracy: float = Field(ge=0, le=1)
    min_accuracy_over_majority: float = Field(ge=-1, le=1)
    min_macro_f1: float = Field(ge=0, le=1)
    min_class_recall: float = Field(ge=0, le=1)


class ParityLimits(Section):
    min_label_agreement: float = Field(ge=0, le=1)
    max_probability_difference: float = Field(gt=0, le=1)


class ChampionPolicy(Section):
    non_inferiority_margin: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0.5, lt=1)
    min_paired_images: int = Field(ge=1)
    promote: list[Literal["better", "equivalent", "worse", "not-enough-data"]]


class NewClasses(Section):
    min_recall: float = Field(ge=0, le=1)


class Serving(Section):
    images: int = Field(ge=1)
    budget_s: float = Field(gt=0)


class Gates(Section):
    """The thresholds of one gates file; every key has to be there, save those of `new_classes` and `serving`."""

    evidence: Evidence
    floors: Floors
    parity: ParityLimits
    champion: ChampionPolicy
    new_classes: NewClasses = NewClasses(min_recall=0.5)
    serving: Serving = Serving(images=8, budget_s=30)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was measured on the candidate; None is evidence that is missing."""

    labels: tuple[str, ...]
    targets: np.ndarray  # int [N], test split
    metrics: dict[str, float]
    per_class: list[dict[str, float]]
    parity: Parity | None
    fresh_process: FreshProcess | None
    champion_version: int | None
    comparison: Comparison | None  # over the test images of the classes that both know
    changes: ClassChanges | None = None  # since the champion; None before there is one


def gates_file(name: str) -> Path:
    """A gates file by its name in `expectations/`, or by its path. Raises ConfigError."""
    folder = Path(expectations.__file__).parent
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(f"evaluate.gates: there is no {path}; give 'gates', or the path of a .toml file like it")
    return path


def gates_digest(name: str) -> str:
    return hashlib.sha256(gates_file(name).read_bytes()).hexdigest()


def load_gates(name: str) -> Gates:
    """The thresholds of a gates file. Raises ConfigError naming each bad or missing key."""
    path = gates_file(name)
    try:
        return Gates.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not valid TOML: {exc}") from exc
    except ValidationError as exc:
        lines = [f"  {'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors()]
        raise ConfigError(f"{path} is no gates file:\n" + "\n".join(lines)) from None


def judge(gates: Gates, found: Findings) -> tuple[GateResult, ...]:
    """Every gate's answer, in the order in which a person reads them."""
    return (
        _test_images(gates, found),
        _at_least("accuracy", found.metrics["accuracy"], gates.floors.min_accuracy, "of the test images are right"),
        _over_majority(gates, found),
        _at_least("macro F1", found.metrics["macro_f1"], gates.floors.min_macro_f1, "is the mean of the classes' F1"),
        _class_recall(gates, found),
        *_new_classes(gates.new_classes, found),
        *_parity(gates.parity, found.parity),
        _fresh_process(gates.serving, found.fresh_process),
        _champion(gates.champion, found),
    )


def _test_images(gates: Gates, found: Findings) -> GateResult:
    n, least = len(found.targets), gates.evidence.min_test_images
    reason = f"{n} test images, at least {least} are asked for"
    if n < least:
        reason += "; add labelled images, or raise split.test_share"
    return GateResult(name="test images", passed=n >= least, value=n, threshold=least, reason=reason)


def _at_least(name: str, value: float, least: float, what: str) -> GateResult:
    passed = not math.isnan(value) and value >= least
    reason = f"{value:.3f} {what}, at least {least:.3f} is asked for"
    return GateResult(name=name, passed=passed, value=value, threshold=least, reason=reason)


def _over_majority(gates: Gates, found: Findings) -> GateResult:
    n, least = len(found.targets), gates.floors.min_accuracy_over_majority
    if n == 0:
        return _missing("better than guessing", least)
    low, _ = wilson_interval(round(found.metrics["accuracy"] * n), n)
    share = majority_share(found.targets)
    reason = f"accuracy is at least {low:.3f} (95 % interval), always naming the largest class would score {share:.3f}"
    return GateResult(
        name="better than guessing", passed=low - share > least, value=low - share, threshold=least, reason=reason
    )


def _class_recall(gates: Gates, found: Findings) -> GateResult:
    least = gates.floors.min_class_recall
    unseen = [label for label, row in zip(found.labels, found.per_class, strict=True) if not row["n"]]
    rows = [(row["recall"], row, label) for label, row in zip(found.labels, found.per_class, strict=True) if row["n"]]
    if unseen or not rows:
        return _missing("class recall", least, f"no test image of {', '.join(unseen) or 'any class'}")
    below = [f"{label} ({recall:.2f} of {row['n']})" for recall, row, label in rows if row["recall_high"] < least]
    worst, row, label = min(rows, key=lambda item: item[0])
    reason = (
        f"recall is below {least:.2f}, beyond doubt, for {', '.join(below)}"
        if below
        else f"the lowest is {label} with {worst:.2f} of {row['n']}; no class is below {least:.2f} beyond doubt"
    )
    return GateResult(name="class recall", passed=not below, value=worst, threshold=least, reason=reason)


def _new_classes(floor: NewClasses, found: Findings) -> list[GateResult]:
    """Of classes that the champion does not know the comparison says nothing: they have a floor of their own. No gate
    where there are none."""
    if found.changes is None or not found.changes.added:
        return []
    per_class = dict(zip(found.labels, found.per_class, strict=True))
    recalls = {label: per_class[label]["recall"] for label in found.changes.added}
    # A class without a test image has no recall (NaN), and so does not pass.
    below = [label for label, recall in recalls.items() if not recall >= floor.min_recall]
    named = ", ".join(f"{label} ({recalls[label]:.2f} of {per_class[label]['n']})" for label in below or recalls)
    reason = f"recall of classes that are new to the champion: {named}; at least {floor.min_recall:.2f} is asked for"
    worst = min(recalls.values(), key=lambda recall: -1 if math.isnan(recall) else recall)
    value = None if math.isnan(worst) else worst
    return [
        GateResult(name="new classes", passed=not below, value=value, threshold=floor.min_recall, reason=reason),
    ]


def _parity(limits: ParityLimits, parity: Parity | None) -> tuple[GateResult, GateResult]:
    if parity is None or parity.n == 0:
        return (
            _missing("parity of labels", limits.min_label_agreement),
            _missing("parity of probabilities", limits.max_probability_difference),
        )
    labels = GateResult(
        name="parity of labels",
        passed=parity.label_agreement >= limits.min_label_agreement,
        value=parity.label_agreement,
        threshold=limits.min_label_agreement,
        reason=f"model.onnx and Keras name the same class for {parity.label_agreement:.2%} of {parity.n} test images",
    )
    probabilities = GateResult(
        name="parity of probabilities",
        passed=parity.max_difference <= limits.max_probability_difference,
        value=parity.max_difference,
        threshold=limits.max_probability_difference,
        reason=f"their probabilities differ by at most {parity.max_difference:.1e}",
    )
    return labels, probabilities


def _fresh_process(limits: Serving, found: FreshProcess | None) -> GateResult:
    name = "fresh process"
    if found is None or found.images == 0:
        return _missing(name, limits.budget_s)
    if found.problem:
        reason = f"bare ONNX Runtime in a process of its own could not serve model.onnx: {found.problem}"
    else:
        reason = (
            f"bare ONNX Runtime in a process of its own loaded model.onnx in {found.load_s:.2f} s and answered "
            f"{found.agreed} of {found.images} test images alike, the slowest in {found.slowest_ms:.0f} ms"
        )
    passed = found.problem is None and found.agreed == found.images and found.seconds <= limits.budget_s
    return GateResult(name=name, passed=passed, value=found.seconds, threshold=limits.budget_s, reason=reason)


def _champion(policy: ChampionPolicy, found: Findings) -> GateResult:
    name = "champion"
    if found.champion_version is None:
        reason = "there is no champion yet: this is the first model, and the floors above are its gates"
        return GateResult(name=name, passed=None, value=None, threshold=None, reason=reason)
    if found.comparison is None:
        return _missing(name, -policy.non_inferiority_margin, f"version {found.champion_version} could not be scored")
    c = found.comparison
    if c.n == 0:
        why = "no test image is of a class that both know; if these are other classes, give the model another --name"
        return _missing(name, -policy.non_inferiority_margin, why)
    said = {
        "better": "better",
        "equivalent": "equivalent (not worse by the margin)",
        "worse": "worse",
        "not-enough-data": "not told apart: not enough data",
    }[c.outcome]
    reason = (
        f"{said}: {c.challenger_accuracy:.3f} against version {found.champion_version}'s {c.champion_accuracy:.3f} on "
        f"the same {c.n} test images{_of_shared(found.changes)}; {c.won} won, {c.lost} lost, difference "
        f"{c.difference:+.3f}, at least {c.low:+.3f} (one-sided {policy.confidence:.0%}), p = {c.p_value:.3f}"
    )
    return GateResult(
        name=name,
        passed=c.outcome in policy.promote,
        value=c.low,
        threshold=-policy.non_inferiority_margin,
        reason=reason,
    )


def _of_shared(changes: ClassChanges | None) -> str:
    said = changes.sentence() if changes else ""
    return f" of the {len(changes.shared)} classes that both know ({said})" if changes and said else ""


def _missing(name: str, threshold: float, why: str = "it was not measured") -> GateResult:
    return GateResult(name=name, passed=False, value=None, threshold=threshold, reason=f"no evidence: {why}")
