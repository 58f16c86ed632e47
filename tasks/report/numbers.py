"""Numbers as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def percent(share: float | None) -> str:
    """0.9123 as '91.2 %'."""
    return "–" if share is None else f"{100 * share:.1f}\u202f%"


def interval(bounds: tuple[float, float]) -> str:
    """(0.889, 0.931) as '88.9–93.1 %'."""
    return f"{100 * bounds[0]:.1f}–{percent(bounds[1])}"


def bounds(pair: tuple[float, float] | list[float] | None) -> str:
    """(-0.08125, 0.11312) as '−0.0812 to 0.113'; nothing where there is no interval."""
    return "" if pair is None else " to ".join(f"{end:.3g}".replace("-", "\u2212", 1) for end in pair)


def points(share: float) -> str:
    """0.0123 as '+1.2', in points of a hundred."""
    return f"{100 * share:+.1f}".replace("-", "\u2212")


def count(number: float) -> str:
    """12345 as '12 345'."""
    return f"{int(number):,}".replace(",", "\u202f")


def figure(value: Any) -> str:
    """A gate's or a comparison's value: four significant digits for a number, the text itself for a text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−", 1) if value < 0 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(figure(item) for item in value)
    return str(value)


def duration(seconds: float | None) -> str:
    """0.42 as '0.4 s', 83 as '1 min 23 s', 7300 as '2 h 2 min'."""
    if seconds is None:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f}\u202fs"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u202fmin {rest}\u202fs"
    return f"{minutes // 60}\u202fh {minutes % 60}\u202fmin"


def amount(value: Any, unit: str = "") -> str:
    """A value in its unit: 0.05 of 'share' as '5.0 %', 0.02 of 'points' as '+2.0 points', 7.2 of 'ms' as '7.2 ms'."""
    if value is None or isinstance(value, str) or not unit:
        return figure(value)
    if unit == "share":
        return percent(value)
    if unit == "points":
        return f"{points(value)}\u202fpoints"
    return f"p = {figure(value)}" if unit == "p" else f"{figure(value)}\u202f{unit}"


def bounds_in(pair: tuple[float, float] | list[float] | None, unit: str = "") -> str:
    """An interval in a unit: (0.03, 0.22) of 'share' as '3.0 % to 22.0 %'; nothing where there is none."""
    if pair is None or not unit:
        return bounds(pair)
    return " to ".join(amount(end, unit) for end in pair)


def rule_of(gate: Mapping[str, Any]) -> str:
    """What a gate asks, in words: 'at most 5.0 %, judged by 3.1 %' where one end of the interval is judged.

    Gates of earlier versions have a threshold alone.
    """
    threshold, unit, judged = gate.get("threshold"), gate.get("unit") or "", gate.get("judged")
    if threshold is None or not gate.get("rule"):
        return figure(threshold)
    asked = f"{gate['rule']} {amount(threshold, unit)}"
    return asked if judged is None else f"{asked}, judged by {amount(judged, unit)}"
