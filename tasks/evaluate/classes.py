"""Classes that were added, removed or renamed since the champion; the comparison covers those that both have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ClassChanges:
    """The candidate's classes against the champion's; `renamed` maps the champion's name of one to today's."""

    shared: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    renamed: dict[str, str]

    def sentence(self) -> str:
        """The changes in words; empty where there are none."""
        parts = [
            f"new {', '.join(self.added)}" if self.added else "",
            f"removed {', '.join(self.removed)}" if self.removed else "",
            "renamed " + ", ".join(f"{old} to {now}" for old, now in self.renamed.items()) if self.renamed else "",
        ]
        return "; ".join(filter(None, parts))


def current_names(labels: Iterable[str], rename: Mapping[str, str]) -> list[str]:
    """Labels of the champion's time under their names of today."""
    return [rename.get(label, label) for label in labels]


def class_changes(champion: Iterable[str], candidate: Iterable[str], rename: Mapping[str, str]) -> ClassChanges:
    """Compares two models' classes; `rename` (old name: new name) is applied to the champion's first."""
    before, now = list(champion), set(candidate)
    known = set(current_names(before, rename))
    return ClassChanges(
        shared=tuple(sorted(known & now)),
        added=tuple(sorted(now - known)),
        removed=tuple(sorted(known - now)),
        renamed={label: rename[label] for label in sorted(before) if rename.get(label, label) != label},
    )
