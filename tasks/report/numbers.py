"""Numbers as a person reads them."""

from __future__ import annotations

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
