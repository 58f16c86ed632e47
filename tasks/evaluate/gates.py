"""The gates: thresholds from `expectations/`, evidence from this run, a decision with its reasons.

They fail closed: what was not measured is not passed. Where a figure has an interval, a gate refuses what is bad beyond
doubt; which gates those are, and why, is in `expectations/README.md`.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

import expectations
from tasks.config import Section
from tasks.errors import ConfigError
from tasks.evaluate.classes import ClassChanges
from tasks.evaluate.comparison import ClassComparison, Comparison
from tasks.evaluate.fresh_process import FreshProcess
from tasks.evaluate.latency import Latency
from tasks.evaluate.metrics import (
    BINS,
    calibration_error_interval,
    chance_calibration_error,
    macro_f1_interval,
    majority_share,
    wilson_interval,
)
from tasks.evaluate.parity import Parity
from tasks.evaluate.robustness import Changed, Robustness
from tasks.records import GateResult


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


class Calibration(Section):
    max_error: float = Field(ge=0, le=1)


class LatencyLimits(Section):
    max_p95_ms: float = Field(gt=0)
    runs: int = Field(ge=5)
    budget_s: float = Field(gt=0)


class Size(Section):
    max_megabytes: float = Field(gt=0)


class ChampionPolicy(Section):
    non_inferiority_margin: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0.5, lt=1)
    min_paired_images: int = Field(ge=1)
    promote: list[Literal["better", "equivalent", "worse", "not-enough-data"]]
    refuse_class_regressions: bool


class NewClasses(Section):
    min_recall: float = Field(ge=0, le=1)


class Serving(Section):
    images: int = Field(ge=1)
    budget_s: float = Field(gt=0)


class Gates(Section):
    """The thresholds that one model is held against; `expectations/gates.toml` gives each."""

    evidence: Evidence
    floors: Floors
    calibration: Calibration
    parity: ParityLimits
    serving: Serving
    latency: LatencyLimits
    size: Size
    robustness: Robustness
    champion: ChampionPolicy
    new_classes: NewClasses

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was measured on the candidate; None, or nothing, is evidence that is missing."""

    labels: tuple[str, ...]
    targets: np.ndarray  # int [N], test split
    probabilities: np.ndarray  # float [N, C]
    metrics: dict[str, float]
    per_class: list[dict[str, float]]
    parity: Parity | None
    fresh_process: FreshProcess | None
    latency: Latency | None
    size_bytes: int | None
    robustness: list[Changed]
    champion_version: int | None
    comparison: Comparison | None  # over the test images of the classes that both know
    class_comparisons: list[ClassComparison] | None  # over the same
    changes: ClassChanges | None = None  # since the champion; None before there is one


def gates_file(name: str) -> Path:
    """A gates file by its name in `expectations/`, or by its path. Raises ConfigError."""
    folder = Path(expectations.__file__).parent
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(f"evaluate.gates: there is no {path}; give 'gates', or the path of a .toml file like it")
    return path


def load_gates(file: str, model: str) -> Gates:
    """The thresholds for one model: those of `expectations/gates.toml`; over them, those of `file`; and over them, what
    `file` says of that model in its tables `[model.NAME.…]`.

    Raises:
        ConfigError: naming each bad or unknown key.
    """
    path = gates_file(file)
    own, everyone = _read(path), _read(gates_file("gates"))
    for_model = own.pop("model", {})
    everyone.pop("model", None)
    if not isinstance(for_model, dict) or not all(isinstance(table, dict) for table in for_model.values()):
        raise ConfigError(f"{path}: below [model] stand tables such as [model.{model}.floors]")
    try:
        return Gates.model_validate(_over(_over(everyone, own), for_model.get(model, {})))
    except ValidationError as exc:
        lines = [f"  {'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors()]
        raise ConfigError(f"{path} is no gates file (of the model {model}):\n" + "\n".join(lines)) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not valid TOML: {exc}") from exc


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the keys of `above` laid over it, table by table."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _over(below[key], value) if both else value
    return merged


def judge(gates: Gates, found: Findings) -> tuple[GateResult, ...]:
    """Every gate's answer, in the order in which a person reads them."""
    return (
        _test_images(gates, found),
        _accuracy(gates.floors, found),
        _over_majority(gates, found),
        _macro_f1(gates.floors, found),
        _class_recall(gates, found),
        *_new_classes(gates.new_classes, found),
        _calibration(gates.calibration, found),
        *_robustness(gates.robustness, found.robustness),
        *_parity(gates.parity, found.parity),
        _fresh_process(gates.serving, found.fresh_process),
        _latency(gates.latency, found.latency),
        _size(gates.size, found.size_bytes),
        _champion(gates.champion, found),
        *_class_regressions(gates.champion, found),
    )


def _test_images(gates: Gates, found: Findings) -> GateResult:
    n, least = len(found.targets), gates.evidence.min_test_images
    reason = f"{n} test images, at least {least} are asked for"
    if n < least:
        reason += "; add labelled images, or raise split.test_share"
    return GateResult(
        name="test images",
        passed=n >= least,
        value=n,
        threshold=least,
        reason=reason,
        evidence="the snapshot's test split",
    )


def _accuracy(floors: Floors, found: Findings) -> GateResult:
    n, least = len(found.targets), floors.min_accuracy
    if n == 0:
        return _missing("accuracy", least)
    value = found.metrics["accuracy"]
    return GateResult(
        name="accuracy",
        passed=value >= least,
        value=value,
        threshold=least,
        reason=f"{value:.3f} of the test images are right, at least {least:.3f} is asked for",
        interval=wilson_interval(round(value * n), n),
        evidence=f"model.onnx on {n} test images",
    )


def _macro_f1(floors: Floors, found: Findings) -> GateResult:
    n, least = len(found.targets), floors.min_macro_f1
    if n == 0:
        return _missing("macro F1", least)
    value = found.metrics["macro_f1"]
    return GateResult(
        name="macro F1",
        passed=value >= least,
        value=value,
        threshold=least,
        reason=f"{value:.3f} is the mean of the classes' F1, at least {least:.3f} is asked for",
        interval=macro_f1_interval(found.targets, found.probabilities.argmax(axis=1), len(found.labels)),
        evidence=f"model.onnx on {n} test images; interval by bootstrap",
    )


def _over_majority(gates: Gates, found: Findings) -> GateResult:
    n, least = len(found.targets), gates.floors.min_accuracy_over_majority
    if n == 0:
        return _missing("better than guessing", least)
    low, high = wilson_interval(round(found.metrics["accuracy"] * n), n)
    share = majority_share(found.targets)
    reason = f"accuracy is at least {low:.3f} (95 % interval), always naming the largest class would score {share:.3f}"
    return GateResult(
        name="better than guessing",
        passed=low - share > least,
        value=low - share,
        threshold=least,
        reason=reason,
        interval=(low - share, high - share),
        evidence=f"model.onnx on {n} test images",
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
    return GateResult(
        name="class recall",
        passed=not below,
        value=worst,
        threshold=least,
        reason=reason,
        interval=(row["recall_low"], row["recall_high"]),
        evidence=f"{len(rows)} classes of {min(row['n'] for _, row, _ in rows)} test images and more",
    )


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


def _calibration(limits: Calibration, found: Findings) -> GateResult:
    n = len(found.targets)
    if n == 0:
        return _missing("calibration error", limits.max_error)
    value = found.metrics["ece"]
    low, high = calibration_error_interval(found.targets, found.probabilities)
    return GateResult(
        name="calibration error",
        passed=low <= limits.max_error,
        value=value,
        threshold=limits.max_error,
        reason=f"what it claims and what comes true differ by {value:.3f} on average, and beyond doubt by {low:.3f}; "
        f"at most {limits.max_error:.3f} is allowed",
        interval=(low, high),
        evidence=f"{n} test images in {BINS} bins; by chance a perfectly calibrated model would show "
        f"{chance_calibration_error(found.probabilities):.3f}",
    )


def _robustness(limits: Robustness, changes: list[Changed]) -> list[GateResult]:
    if not changes:
        return [_missing("robustness", limits.max_accuracy_drop)]
    return [
        GateResult(
            name=f"robustness to {change.kind}",
            passed=change.interval[0] <= limits.max_accuracy_drop,
            value=change.drop,
            threshold=limits.max_accuracy_drop,
            reason=f"accuracy goes from {change.accuracy_before:.3f} to {change.accuracy:.3f} ({change.strength}); "
            f"refused where it falls by more than {limits.max_accuracy_drop:.3f} beyond doubt",
            interval=change.interval,
            evidence=f"{change.n} test images, each as it is and changed",
        )
        for change in changes
    ]


def _latency(limits: LatencyLimits, found: Latency | None) -> GateResult:
    if found is None:
        return _missing("latency", limits.max_p95_ms)
    return GateResult(
        name="latency",
        passed=found.interval_ms[0] <= limits.max_p95_ms,
        value=found.p95_ms,
        threshold=limits.max_p95_ms,
        reason=f"19 of 20 images take at most {found.p95_ms:.1f} ms on one thread, half of them "
        f"{found.median_ms:.1f} ms; {limits.max_p95_ms:g} ms are allowed",
        interval=found.interval_ms,
        evidence=f"{found.runs} runs, after warm-up, of one image of {found.image_size_px} px on this machine",
    )


def _size(limits: Size, size_bytes: int | None) -> GateResult:
    if size_bytes is None:
        return _missing("size", limits.max_megabytes)
    megabytes = size_bytes / 1e6
    return GateResult(
        name="size",
        passed=megabytes <= limits.max_megabytes,
        value=megabytes,
        threshold=limits.max_megabytes,
        reason=f"model.onnx has {megabytes:.1f} MB, {limits.max_megabytes:g} MB are allowed",
        evidence="the file's bytes",
    )


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
        evidence=f"all {parity.n} test images",
        overridable=False,
    )
    probabilities = GateResult(
        name="parity of probabilities",
        passed=parity.max_difference <= limits.max_probability_difference,
        value=parity.max_difference,
        threshold=limits.max_probability_difference,
        reason=f"their probabilities differ by at most {parity.max_difference:.1e}",
        evidence=f"all {parity.n} test images",
        overridable=False,
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
    return GateResult(
        name=name,
        passed=passed,
        value=found.seconds,
        threshold=limits.budget_s,
        reason=reason,
        evidence=f"{found.images} test images",
        overridable=False,
    )


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
        "not-enough-data": "not enough data to rule out that it is worse by the margin",
    }[c.outcome]
    reason = (
        f"{said}: {c.challenger_accuracy:.3f} against version {found.champion_version}'s {c.champion_accuracy:.3f} on "
        f"the same {c.n} test images{_of_shared(found.changes)}; {c.won} won, {c.lost} lost, difference "
        f"{c.difference:+.3f}, at least {c.low:+.3f} (one-sided {policy.confidence:.0%}), p = {c.p_value:.3f}"
    )
    return GateResult(
        name=name,
        passed=c.outcome in policy.promote,
        value=c.difference,
        threshold=-policy.non_inferiority_margin,
        reason=reason + _images_needed(policy, c),
        interval=(c.low, c.high),
        evidence=f"both files on the same {c.n} test images; interval by paired bootstrap, one-sided each",
    )


def _images_needed(policy: ChampionPolicy, c: Comparison) -> str:
    """How to mend it where there was not enough data: the images with which equal models would be told equivalent."""
    if c.outcome != "not-enough-data":
        return ""
    disagreement = (c.won + c.lost + 2) / (c.n + 2)
    z = NormalDist().inv_cdf(policy.confidence) + NormalDist().inv_cdf(0.8)
    needed = math.ceil(disagreement * (z / policy.non_inferiority_margin) ** 2)
    return (
        f". Equally good models that differ so often need about {max(needed, policy.min_paired_images):,} test images "
        "to be told equivalent (four times in five): add some, or widen the margin in the gates file"
    )


def _class_regressions(policy: ChampionPolicy, found: Findings) -> list[GateResult]:
    """No gate before there is a champion, nor where it could not be scored, which its own gate says."""
    rows = found.class_comparisons
    if not rows:
        return []
    level = 1 - policy.confidence
    worse = [row for row in rows if row.p_value <= level]
    named = ", ".join(f"{row.label} ({row.won} won, {row.lost} lost of {row.n})" for row in worse)
    reason = (
        f"got worse, beyond doubt: {named}"
        if worse
        else f"no class got worse beyond doubt; the nearest is {rows[0].label} ({rows[0].won} won, {rows[0].lost} lost "
        f"of {rows[0].n})"
    )
    passed = not worse if policy.refuse_class_regressions else None
    return [
        GateResult(
            name="class regressions",
            passed=passed,
            value=rows[0].p_value,
            threshold=level,
            reason=reason,
            evidence=f"exact McNemar tests of {len(rows)} classes, one-sided, corrected by Holm's method",
        )
    ]


def _of_shared(changes: ClassChanges | None) -> str:
    said = changes.sentence() if changes else ""
    return f" of the {len(changes.shared)} classes that both know ({said})" if changes and said else ""


def _missing(name: str, threshold: float, why: str = "it was not measured") -> GateResult:
    return GateResult(
        name=name, passed=False, value=None, threshold=threshold, reason=f"no evidence: {why}", overridable=False
    )
