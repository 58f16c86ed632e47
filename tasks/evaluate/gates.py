"""The gates: each compares what was measured on the candidate with a threshold, and says why it passed or refused.

They fail closed: what was not measured does not pass. Where a value has an interval, a gate refuses only if the whole
interval is beyond the threshold; which gates those are, and why, is in `expectations/README.md`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tasks.evaluate import champion_gate
from tasks.evaluate.findings import Findings
from tasks.evaluate.fresh_process import FreshProcess
from tasks.evaluate.gate_rule import GateRule
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
from tasks.evaluate.thresholds import (
    Calibration,
    Floors,
    Gates,
    LatencyLimits,
    NewClasses,
    ParityLimits,
    Serving,
    Size,
    UnknownClasses,
)
from tasks.records import GateResult


def judge(gates: Gates, found: Findings) -> tuple[GateResult, ...]:
    """The result of every gate, in the order in which a person reads them."""
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
        *_unknown_classes(gates.unknown, found.unknown),
        _fresh_process(gates.serving, found.fresh_process),
        _latency(gates.latency, found.latency),
        _size(gates.size, found.size_bytes),
        champion_gate.by_test_split(gates.champion, found),
        *champion_gate.class_regressions(gates.champion, found),
    )


def _test_images(gates: Gates, found: Findings) -> GateResult:
    n, least = len(found.targets), gates.evidence.min_test_images
    rule = GateRule(gate="test images", rule="at least", threshold=least, unit="images")
    reason = f"{n} test images (at least {least})"
    if n < least:
        reason += "; add labelled images, or raise split.test_share"
    return rule.result(n, reason, evidence="the snapshot's test split")


def _accuracy(floors: Floors, found: Findings) -> GateResult:
    n, least = len(found.targets), floors.min_accuracy
    rule = GateRule(gate="accuracy", rule="at least", threshold=least, unit="share")
    if n == 0:
        return rule.missing()
    value = found.metrics["accuracy"]
    return rule.result(
        value,
        f"test accuracy {value:.3f} (at least {least:.3f})",
        interval=wilson_interval(round(value * n), n),
        evidence=f"model.onnx on {n} test images",
    )


def _macro_f1(floors: Floors, found: Findings) -> GateResult:
    n, least = len(found.targets), floors.min_macro_f1
    rule = GateRule(gate="macro F1", rule="at least", threshold=least, unit="share")
    if n == 0:
        return rule.missing()
    value = found.metrics["macro_f1"]
    return rule.result(
        value,
        f"macro F1 {value:.3f} (at least {least:.3f})",
        interval=macro_f1_interval(found.targets, found.probabilities.argmax(axis=1), len(found.labels)),
        evidence=f"model.onnx on {n} test images; interval by bootstrap",
    )


def _over_majority(gates: Gates, found: Findings) -> GateResult:
    n, least = len(found.targets), gates.floors.min_accuracy_over_majority
    rule = GateRule(gate="better than guessing", rule="more than", threshold=least, unit="points")
    if n == 0:
        return rule.missing()
    low, high = wilson_interval(round(found.metrics["accuracy"] * n), n)
    share = majority_share(found.targets)
    return rule.result(
        low - share,
        f"accuracy is at least {low:.3f} (95 % interval); always predicting the largest class gives {share:.3f}",
        interval=(low - share, high - share),
        evidence=f"model.onnx on {n} test images",
    )


def _class_recall(gates: Gates, found: Findings) -> GateResult:
    least = gates.floors.min_class_recall
    rule = GateRule(gate="class recall", rule="at least", threshold=least, unit="share")
    unseen = [label for label, row in zip(found.labels, found.per_class, strict=True) if not row["n"]]
    rows = [(row["recall"], row, label) for label, row in zip(found.labels, found.per_class, strict=True) if row["n"]]
    if unseen or not rows:
        return rule.missing(f"no test image of {', '.join(unseen) or 'any class'}")
    below = [f"{label} ({recall:.2f} of {row['n']})" for recall, row, label in rows if row["recall_high"] < least]
    worst, row, label = min(rows, key=lambda item: item[0])
    reason = (
        f"recall is significantly below {least:.2f} for {', '.join(below)}"
        if below
        else f"the lowest is {worst:.2f}, of {label} ({row['n']} images); none is significantly below {least:.2f}"
    )
    return rule.result(
        worst,
        reason,
        judged=min(row["recall_high"] for _, row, _ in rows),
        interval=(row["recall_low"], row["recall_high"]),
        evidence=f"{len(rows)} classes of at least {min(row['n'] for _, row, _ in rows)} test images",
    )


def _new_classes(floor: NewClasses, found: Findings) -> list[GateResult]:
    """A minimum recall for classes that the champion does not have, which the comparison can't cover.

    Refused is a class whose recall is significantly below: a new class begins with few test images, perhaps one.
    """
    if found.changes is None or not found.changes.added:
        return []
    rule = GateRule(gate="new classes", rule="at least", threshold=floor.min_recall, unit="share")
    rows = dict(zip(found.labels, found.per_class, strict=True))
    added = {label: rows[label] for label in found.changes.added}
    if unseen := [label for label, row in added.items() if not row["n"]]:
        return [rule.missing(f"no test image of {', '.join(unseen)}")]
    below = [label for label, row in added.items() if row["recall_high"] < floor.min_recall]
    named = ", ".join(f"{label} ({added[label]['recall']:.2f} of {added[label]['n']})" for label in below or added)
    reason = (
        f"recall is significantly below {floor.min_recall:.2f} for classes that the champion does not have: {named}"
        if below
        else f"recall of classes that the champion does not have: {named}; none is significantly below "
        f"{floor.min_recall:.2f}"
    )
    worst = min(added.values(), key=lambda row: row["recall_high"])
    interval = (worst["recall_low"], worst["recall_high"])
    return [rule.result(worst["recall"], reason, judged=worst["recall_high"], interval=interval)]


def _calibration(limits: Calibration, found: Findings) -> GateResult:
    n = len(found.targets)
    rule = GateRule(gate="calibration error", rule="at most", threshold=limits.max_error, unit="share")
    if n == 0:
        return rule.missing()
    value = found.metrics["ece"]
    low, high = calibration_error_interval(found.targets, found.probabilities)
    return rule.result(
        value,
        f"expected calibration error {value:.3f}, of which {low:.3f} can't be chance (at most {limits.max_error:.3f})",
        judged=low,
        interval=(low, high),
        evidence=f"{n} test images in {BINS} bins; a perfectly calibrated model would have "
        f"{chance_calibration_error(found.probabilities):.3f} by chance",
    )


def _robustness(limits: Robustness, changes: list[Changed]) -> list[GateResult]:
    def rule(name: str) -> GateRule:
        return GateRule(gate=name, rule="at most", threshold=limits.max_accuracy_drop, unit="points")

    if not changes:
        return [rule("robustness").missing()]
    return [
        rule(f"robustness to {change.kind}").result(
            change.drop,
            f"accuracy falls from {change.accuracy_before:.3f} to {change.accuracy:.3f} ({change.strength}); a "
            f"significant loss may be at most {limits.max_accuracy_drop:.3f}",
            judged=change.interval[0],
            interval=change.interval,
            evidence=f"{change.n} test images, each unchanged and changed",
        )
        for change in changes
    ]


def _latency(limits: LatencyLimits, found: Latency | None) -> GateResult:
    rule = GateRule(gate="latency", rule="at most", threshold=limits.max_p95_ms, unit="ms")
    if found is None:
        return rule.missing()
    return rule.result(
        found.p95_ms,
        f"95 % of the images take {found.p95_ms:.1f} ms or less on one thread (at most {limits.max_p95_ms:g} ms), "
        f"the median {found.median_ms:.1f} ms",
        judged=found.interval_ms[0],
        interval=found.interval_ms,
        evidence=f"{found.runs} runs, after warm-up, of one {found.item} on this machine",
    )


def _size(limits: Size, size_bytes: int | None) -> GateResult:
    rule = GateRule(gate="size", rule="at most", threshold=limits.max_megabytes, unit="MB")
    if size_bytes is None:
        return rule.missing()
    megabytes = size_bytes / 1e6
    reason = f"model.onnx has {megabytes:.1f} MB (at most {limits.max_megabytes:g} MB)"
    return rule.result(megabytes, reason, evidence="the file's bytes")


def _parity(limits: ParityLimits, parity: Parity | None) -> tuple[GateResult, GateResult]:
    agreement, difference = limits.min_label_agreement, limits.max_probability_difference
    labels = GateRule(gate="parity of labels", rule="at least", threshold=agreement, unit="share", overridable=False)
    probabilities = GateRule(gate="parity of probabilities", rule="at most", threshold=difference, overridable=False)
    if parity is None:
        return labels.missing(), probabilities.missing()
    evidence = f"{parity.n} test images"
    same = f"model.onnx and Keras predict the same class for {parity.label_agreement:.2%} of {parity.n} images"
    apart = f"their probabilities differ by {parity.max_difference:.1e} in the worst case (at most {difference:g})"
    return (
        labels.result(parity.label_agreement, f"{same} (at least {agreement:.2%})", evidence=evidence),
        probabilities.result(parity.max_difference, apart, evidence=evidence),
    )


def _unknown_classes(limits: UnknownClasses, found: dict[str, Any] | None) -> list[GateResult]:
    """How well the familiarity tells unknown classes; refuses only where a minimum is set."""
    least = limits.min_auroc
    rule = GateRule(gate="unknown classes", rule="at least", threshold=least, unit="share")
    if found is None:
        return [rule.missing("it takes three classes, and five images of each")] if least else []
    value, (low, high) = found["auroc"], found["interval"]
    asked = f"at least {least:.2f}" if least else "no minimum is set"
    reason = (
        f"of an image of an unknown class and one of a known class, the unknown one is less familiar in {value:.0%} of "
        f"all pairs ({low:.0%} to {high:.0%}; {asked})"
    )
    evidence = f"{found['images']} images of {len(found['classes'])} classes, each left out in turn"
    result = rule.result(value, reason, judged=high, interval=(low, high), evidence=evidence)
    return [result if least else replace(result, passed=None)]


def _fresh_process(limits: Serving, found: FreshProcess | None) -> GateResult:
    rule = GateRule(gate="fresh process", rule="at most", threshold=limits.budget_s, unit="s", overridable=False)
    if found is None or found.images == 0:
        return rule.missing()
    if found.problem:
        reason = f"a new process with ONNX Runtime alone could not serve model.onnx: {found.problem}"
    else:
        reason = (
            f"a new process with ONNX Runtime alone loaded model.onnx in {found.load_s:.2f} s and predicted the same "
            f"class for {found.agreed} of {found.images} test images, the slowest in {found.slowest_ms:.0f} ms"
        )
    passed = found.problem is None and found.agreed == found.images and found.seconds <= limits.budget_s
    return rule.result(found.seconds, reason, passed=passed, evidence=f"{found.images} test images")
