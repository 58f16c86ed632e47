"""What the report says of the run itself: where the time went, the lineage, the configuration."""

from __future__ import annotations

from typing import Any

from tasks.config import Config
from tasks.report import charts
from tasks.report.evidence import Evidence
from tasks.report.numbers import duration


def timings(evidence: Evidence) -> list[dict[str, Any]]:
    given = {name: s for name, s in (evidence.summary.get("timings_s") or {}).items() if s is not None}
    total = given.pop("total", None) or sum(given.values()) or 1.0
    return [
        {"name": name, "duration": duration(s), "share": s / total, "bar": charts.bar(s / total)}
        for name, s in given.items()
    ]


def lineage(evidence: Evidence) -> list[tuple[str, Any]]:
    tree = evidence.summary.get("lineage") or {}
    return _flatten({key: value for key, value in tree.items() if key != "auto"})  # shown in its own table


def config(evidence: Evidence) -> list[dict[str, Any]]:
    """Each key of the configuration, its value, and whether the user changed it."""
    defaults = dict(_flatten(Config().model_dump(mode="json", by_alias=True)))
    return [
        {"key": key, "value": value, "changed": key in defaults and defaults[key] != value}
        for key, value in _flatten(evidence.summary.get("config") or {})
    ]


def _flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as (dotted key, value) pairs, in order."""
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        pairs += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return pairs
