"""Differences: from the champion, in the data and in the confusions; from the source, by people's corrections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tasks.report.evidence import Prediction

MAX_CORRECTIONS = 100


@dataclass(frozen=True, kw_only=True)
class ClassChange:
    """Images of one class, in the champion's snapshot and in this one."""

    label: str
    before: int
    now: int
    new: int  # images that the champion's snapshot does not hold
    gone: int
    relabelled_in: int  # images that had another label before
    relabelled_out: int

    @property
    def changed(self) -> bool:
        return bool(self.new or self.gone or self.relabelled_in or self.relabelled_out)


@dataclass(frozen=True, kw_only=True)
class ConfusionChange:
    """How many images of class `label`, predicted by both models, each took for `predicted`."""

    label: str
    predicted: str
    before: int
    now: int

    @property
    def change(self) -> int:
        return self.now - self.before


def data_changes(before: pa.Table, now: pa.Table) -> list[ClassChange]:
    """Class by class, the most changed first. Both tables have the columns `sha256` and `label`."""
    earlier = dict(zip(before["sha256"].to_pylist(), before["label"].to_pylist(), strict=True))
    later = dict(zip(now["sha256"].to_pylist(), now["label"].to_pylist(), strict=True))
    new = Counter(label for sha256, label in later.items() if sha256 not in earlier)
    gone = Counter(label for sha256, label in earlier.items() if sha256 not in later)
    moved = [(earlier[sha256], label) for sha256, label in later.items() if earlier.get(sha256, label) != label]
    moved_out, moved_in = Counter(old for old, _ in moved), Counter(label for _, label in moved)
    counts_before, counts_now = Counter(earlier.values()), Counter(later.values())
    rows = [
        ClassChange(
            label=label,
            before=counts_before[label],
            now=counts_now[label],
            new=new[label],
            gone=gone[label],
            relabelled_in=moved_in[label],
            relabelled_out=moved_out[label],
        )
        for label in counts_before | counts_now
    ]
    return sorted(rows, key=lambda row: (-(row.new + row.gone + row.relabelled_in + row.relabelled_out), row.label))


def confusion_changes(predictions: Sequence[Prediction], limit: int = 10) -> list[ConfusionChange]:
    """The wrong (label, predicted) pairs whose count changed most, over the images that both models predicted."""
    both = [p for p in predictions if p.champion_predicted is not None]
    before = Counter((p.label, str(p.champion_predicted)) for p in both if p.champion_predicted != p.label)
    now = Counter((p.label, p.predicted) for p in both if not p.correct)
    rows = [
        ConfusionChange(label=pair[0], predicted=pair[1], before=before[pair], now=now[pair])
        for pair in before | now
        if before[pair] != now[pair]
    ]
    return sorted(rows, key=lambda row: (-abs(row.change), row.change, row.label, row.predicted))[:limit]


def corrections(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """What people's corrections changed, counted, and the first of the images; None where there are none.

    Args:
        found: as `tasks.ingest.corrected.Corrected.to_json`.
    """
    if not found:
        return None
    rows = [*found["changed"], *found["dropped"]]
    counts = {"changed": len(found["changed"]), "dropped": len(found["dropped"])}
    return {**found, **counts, "shown": rows[:MAX_CORRECTIONS], "more": max(0, len(rows) - MAX_CORRECTIONS)}
