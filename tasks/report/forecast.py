"""The learning curve in words: would more labels help, and of which class?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.report.numbers import count, points

WORTH_NAMING = 0.005  # of accuracy: less is not worth labelling as many images again
NAMED_CLASSES = 5


def forecast(curve: Mapping[str, Any]) -> str:
    """One paragraph on the gain from more labels."""
    before, now = curve["points"][-2:]
    low, high = curve["gain_interval"]
    seen = (
        f"From {count(before['images'])} to {count(now['images'])} images a simple classifier on the same features "
        f"gained {points(curve['gain'])} points ({points(low)} to {points(high)}, 95 % interval)."
    )
    if low > 0 and curve["next_gain"] >= WORTH_NAMING:
        verdict = f"More labels would help: twice as many would bring about {100 * curve['next_gain']:.1f} points more."
    elif low > 0:
        verdict = "It is levelling off: twice as many labels would bring less than half a point."
    else:
        verdict = "More labels of the same kind would hardly help."
    return f"{verdict} {seen}{_of_classes(curve)}"


def gaining_classes(curve: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The classes whose recall rose significantly by the last doubling, the largest gain first."""
    return [row for row in curve["classes"] if row["gain_interval"][0] > 0][:NAMED_CLASSES]


def _of_classes(curve: Mapping[str, Any]) -> str:
    named = ", ".join(f"{row['label']} ({points(row['gain'])})" for row in gaining_classes(curve))
    return f" By then these classes gained most: {named}." if named else " No single class stands out."
