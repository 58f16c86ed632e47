"""The quarantine: each file that was left out, by name, with its reason; the file itself is never touched.

`quarantine/<name>.jsonl` is a model's register: an entry for each file and reason ever met, kept until dropped.
`runs/<run_id>/quarantine.jsonl` is one run's share of it. Both are replaced whole, the register first, so a crash
leaves the old content or the new, and a retry adds nothing twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import pandas as pd

from tasks.artifacts import Run
from tasks.workspace import Workspace


class LeftOut(NamedTuple):
    """A file that can't be used. `sha256` is None where it was not read."""

    path: str
    sha256: str | None
    label: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineEntry:
    """One file and one reason, with the run that met it first."""

    path: str
    sha256: str | None
    label: str | None
    reason: str
    run_id: str
    date: str  # ISO 8601, UTC

    @property
    def key(self) -> tuple[str, str | None, str]:
        return self.path, self.sha256, self.reason


def name_rows(table: pd.DataFrame, reason: str) -> list[LeftOut]:
    """The rows of a catalogue, all left out for one reason."""
    rows = zip(table["path"], table["sha256"], table["label"], strict=True)
    return [LeftOut(path, sha256, label, reason) for path, sha256, label in rows]


def register_path(name: str) -> str:
    return f"quarantine/{name}.jsonl"


def read_entries(workspace: Workspace, path: str) -> list[QuarantineEntry]:
    """The entries of a quarantine file, oldest first; none where it is absent."""
    if not workspace.exists(path):
        return []
    lines = workspace.read_bytes(path).decode().splitlines()
    return [QuarantineEntry(**json.loads(line)) for line in lines]


def quarantine(run: Run, found: Iterable[LeftOut]) -> int:
    """Adds files to the quarantine of the run's model; returns how many files this run has quarantined so far."""
    entries = [QuarantineEntry(**item._asdict(), run_id=run.run_id, date=run.started_at) for item in found]
    for path in (register_path(run.name), run.path("quarantine.jsonl")):
        _merge(run.workspace, path, entries)
    return len({(entry.path, entry.label) for entry in run_quarantine(run)})


def run_quarantine(run: Run) -> list[QuarantineEntry]:
    """What this run has quarantined so far."""
    return read_entries(run.workspace, run.path("quarantine.jsonl"))


def _merge(workspace: Workspace, path: str, entries: list[QuarantineEntry]) -> None:
    held = read_entries(workspace, path)
    known = {entry.key for entry in held}
    fresh = {entry.key: entry for entry in entries if entry.key not in known}
    if fresh or not held:
        lines = [json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in [*held, *fresh.values()]]
        workspace.write_bytes(path, "".join(lines).encode())
