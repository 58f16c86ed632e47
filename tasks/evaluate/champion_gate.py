"""The gate between champion and challenger: by the test split and, where that has too few images, by all."""

from __future__ import annotations

import math

from tasks.evaluate.all_images import AllImages
from tasks.evaluate.classes import ClassChanges
from tasks.evaluate.comparison import CROSS_FITTED_VARIANCE, NORMAL, Comparison, bootstrap_bounds
from tasks.evaluate.findings import Findings
from tasks.evaluate.gate_rule import GateRule
from tasks.evaluate.thresholds import ChampionPolicy
from tasks.records import GateResult

NAME = "champion"
POWER = 0.8  # with which the number of images that would decide is counted


def by_test_split(policy: ChampionPolicy, found: Findings) -> GateResult:
    """Both files on the same test images."""
    rule = _rule(policy)
    if found.champion_version is None:
        reason = f"this is the first model: there is no champion to compare it with{_too_few(policy, found)}"
        return GateResult(name=NAME, passed=None, value=None, threshold=None, reason=reason)
    if found.comparison is None:
        return rule.missing(f"version {found.champion_version} can't be loaded")
    c = found.comparison
    if c.n == 0:
        return rule.missing(
            "the models share no class with a test image; for other classes, give the model another --name"
        )
    verdict = {
        "better": "better",
        "equivalent": "equivalent (not worse by the margin)",
        "worse": "worse",
        "not-enough-data": "not enough data to rule out that it is worse by the margin",
    }[c.outcome]
    reason = (
        f"{verdict}: {c.challenger_accuracy:.3f} against version {found.champion_version}'s {c.champion_accuracy:.3f} "
        f"on the same {c.n} test images{_of_shared(found.changes)}; {c.won} won, {c.lost} lost, difference "
        f"{c.difference:+.3f}, at least {c.low:+.3f} (one-sided {policy.confidence:.0%}), p = {c.p_value:.3f}"
    )
    return rule.result(
        c.difference,
        reason + _images_needed(policy, c),
        judged=c.low,
        passed=c.outcome in policy.promote,
        interval=(c.low, c.high),
        evidence=f"both files on the same {c.n} test images; interval by paired bootstrap, one-sided each",
    )


def by_all_images(policy: ChampionPolicy, found: AllImages, version: int | None) -> GateResult:
    """Where the test split does not decide."""
    images = found.images
    decided = found.outcome != "not-enough-data"
    grown = not decided and policy.undecided == "promote-if-grown" and not found.obstacles
    verdict = {
        "better": "better",
        "equivalent": "equivalent (not worse by the margin)",
        "worse": "worse",
        "not-enough-data": "promoted as grown" if grown else "not enough data to rule out that it is worse",
    }[found.outcome]
    low = images.low(policy.confidence)
    reason = (
        f"{verdict}, by all {images.n:,} images: {found.challenger_accuracy:.3f} against version {version}'s "
        f"{found.champion_accuracy:.3f} ({found.test.n} test images by both files, {found.old.n} old and {found.new.n} "
        f"new ones by cross-fitting), difference {images.difference:+.3f}, at least {low:+.4f} (one-sided "
        f"{policy.confidence:.0%}); the test images alone say {found.test.difference:+.3f}"
        f"{'' if found.agree else ', which chance does not explain'}"
    )
    high = 2 * images.difference - low
    return _rule(policy).result(
        images.difference,
        reason + _why_undecided(policy, found, grown),
        judged=low,
        passed=grown or found.outcome in policy.promote,
        interval=(low, high),
        evidence=f"{images.n} images; cross-fitted predictions at {CROSS_FITTED_VARIANCE:g} times their variance",
    )


def class_regressions(policy: ChampionPolicy, found: Findings) -> list[GateResult]:
    """No gate without a champion, nor where it can't be loaded, which the champion's gate reports."""
    rows = found.class_comparisons
    if not rows:
        return []
    level = 1 - policy.confidence
    worse = [row for row in rows if row.p_value <= level]
    named = ", ".join(f"{row.label} ({row.won} won, {row.lost} lost of {row.n})" for row in worse)
    reason = (
        f"significantly worse: {named}"
        if worse
        else f"no class is significantly worse; the nearest is {rows[0].label} ({rows[0].won} won, {rows[0].lost} lost "
        f"of {rows[0].n})"
    )
    rule = GateRule(gate="class regressions", rule="more than", threshold=level, unit="p")
    evidence = f"exact McNemar tests of {len(rows)} classes, one-sided, corrected by Holm's method"
    passed = not worse if policy.refuse_class_regressions else None
    return [rule.result(rows[0].p_value, reason, passed=passed, evidence=evidence)]


def _rule(policy: ChampionPolicy) -> GateRule:
    return GateRule(gate=NAME, rule="at least", threshold=-policy.non_inferiority_margin, unit="points")


def _too_few(policy: ChampionPolicy, found: Findings) -> str:
    """Warns, before it matters, of a test split that will not decide between this model and a later one."""
    n = len(found.targets)
    low, _ = bootstrap_bounds(0, 0, n, policy.confidence)
    if low > -policy.non_inferiority_margin and n >= policy.min_paired_images:
        return ""
    return (
        f"; its {n} test images are too few to find even two equal models equivalent, so a later one will be compared "
        "on all images, by cross-fitting; to decide by the test split alone, raise split.test_share"
    )


def _images_needed(policy: ChampionPolicy, c: Comparison) -> str:
    """What to do where there is not enough data: how many images would show equal models to be equivalent."""
    if c.outcome != "not-enough-data":
        return ""
    disagreement = (c.won + c.lost + 2) / (c.n + 2)
    z = NORMAL.inv_cdf(policy.confidence) + NORMAL.inv_cdf(POWER)
    needed = math.ceil(disagreement * (z / policy.non_inferiority_margin) ** 2)
    return (
        f". To show that equally good models are equivalent takes about {max(needed, policy.min_paired_images):,} test "
        f"images (with a power of {POWER}): add images, raise split.test_share, or widen the margin in the gates file"
    )


def _why_undecided(policy: ChampionPolicy, found: AllImages, grown: bool) -> str:
    if found.outcome != "not-enough-data":
        return ""
    if grown:
        return (
            ". Neither decides, but the data only grew, the settings are the champion's, and nothing speaks for worse"
        )
    power = NORMAL.inv_cdf(policy.confidence) + NORMAL.inv_cdf(POWER)
    needed = math.ceil(found.images.n * (power * found.images.error / policy.non_inferiority_margin) ** 2)
    kept_back = f" It is not promoted as grown: {'; '.join(found.obstacles)}." if found.obstacles else ""
    return (
        f".{kept_back} About {needed:,} images would decide: add some; raise split.test_share; widen "
        "champion.non_inferiority_margin or set champion.undecided in the gates file; or look at the report and "
        "publish it with `headstart promote`"
    )


def _of_shared(changes: ClassChanges | None) -> str:
    sentence = changes.sentence() if changes else ""
    return f" of the {len(changes.shared)} classes that both have ({sentence})" if changes and sentence else ""
