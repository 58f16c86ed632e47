"""Applies what people decided about labels (`tasks.storage.corrections`) to the files of a source, as they enter the
catalogue: all that is keyed by content follows. The source is never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tasks.ingest.reading import Read
from tasks.storage.corrections import DROP, Correction, Corrections

DROPPED = "dropped by a person (corrections.csv)"


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """Files under their corrected labels, and what the corrections did; an item is an image.

    Items of `changed` and `dropped`: {sha256, path, given (the source's label), label, by, when, reason}.
    `without_effect` has a sentence for each decision or row that changed nothing although it was meant to.
    """

    reads: list[Read] = field(default_factory=list)
    changed: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    dropped_files: int = 0
    without_effect: list[str] = field(default_factory=list)
    absent: int = 0  # decisions about images that the source does not hold, or not any more

    def to_json(self) -> dict[str, Any]:
        kept = ("changed", "dropped", "without_effect", "absent")
        return {name: getattr(self, name) for name in kept}


def correct(reads: Sequence[Read], corrections: Corrections, rename: Mapping[str, str]) -> Corrected:
    """The files of a source under the labels that people gave them.

    Args:
        reads: under the source's labels, renamed classes under their new names.
        rename: old class = new class, for decisions that were made before.
    """
    standing = corrections.standing()
    if not standing:
        return Corrected(reads=list(reads), without_effect=list(corrections.faults))
    classes = {read.entry.label for read in reads}
    labels = {sha256: _label(decision, classes, rename) for sha256, decision in standing.items()}
    changed: dict[str, dict[str, Any]] = {}
    dropped: dict[str, dict[str, Any]] = {}
    kept, present = [], set()
    for read in reads:
        decision = standing.get(read.sha256 or "")
        if decision is None:
            kept.append(read)
            continue
        present.add(decision.sha256)
        label = labels[decision.sha256]
        if label == DROP:
            dropped.setdefault(decision.sha256, _item(read, decision, DROP))
        elif label is None or label == read.entry.label:
            kept.append(read)
        else:
            changed.setdefault(decision.sha256, _item(read, decision, label))
            kept.append(replace(read, entry=replace(read.entry, label=label)))
    return Corrected(
        reads=kept,
        changed=list(changed.values()),
        dropped=list(dropped.values()),
        dropped_files=len(reads) - len(kept),
        without_effect=[*corrections.faults, *_without_class(standing, labels, present)],
        absent=len(standing.keys() - present),
    )


def _label(decision: Correction, classes: set[str], rename: Mapping[str, str]) -> str | None:
    """DROP, a class of the source, or None where it has no such class."""
    if decision.label == DROP:
        return DROP
    named = [rename.get(label, label) for label in (decision.label, decision.label.strip())]
    return next((label for label in named if label in classes), None)


def _item(read: Read, decision: Correction, label: str) -> dict[str, Any]:
    made = {name: value for name, value in asdict(decision).items() if name in ("by", "when", "reason")}
    return {
        "sha256": decision.sha256,
        "path": read.entry.path,
        "given": read.entry.label,
        "label": label,
        **made,
    }


def _without_class(
    standing: Mapping[str, Correction], labels: Mapping[str, str | None], present: set[str]
) -> list[str]:
    return [
        f"line {decision.line}: there is no class {decision.label!r} in the source, so {sha256[:12]} keeps its label"
        for sha256, decision in standing.items()
        if labels[sha256] is None and sha256 in present
    ]
