"""The quarantine: each file that was left out, by name, with its reason. The file itself is never changed.

`quarantine/<name>.jsonl` is a model's register: an entry for each file and reason of all runs.
`quarantine/<name>.decisions.json` holds what a person decided of them: an image that was released is used although
an expectation rejects it; one that was dropped is left out for good and no longer reported.
`quarantine.jsonl` in a stage's folder names what this stage left out, and in `runs/<run_id>/` what the run did.

All are replaced whole, so a crash leaves the old content or the new, and a retry adds nothing twice.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple

import pandas as pd

from tasks.errors import UsageError
from tasks.records import Catalogue, Run, Snapshot
from tasks.workspace import Workspace

FILE = "quarantine.jsonl"
# What differs between two reasons of one kind: names in quotes, what stands in brackets or behind a colon, numbers.
_VARYING = re.compile(r"'[^']*'|\([^)]*\)|\d[\d.,]*|: .*")
Decided = Literal["released", "dropped"]


class LeftOut(NamedTuple):
    """A file that can't be used. `sha256` is None where the file was not read, `uri` where there is no picture to show.

    `releasable`: a person may decide to use it anyway, which does not help a damaged file. `content`: a digest of what
    a person sees of it (pixels or words), where other files have the same under another label; None elsewhere.
    """

    path: str
    sha256: str | None
    label: str | None
    reason: str
    releasable: bool = False
    uri: str | None = None
    content: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineEntry:
    """One file and one reason, with the run that found it first, and the snapshot that this run made without it."""

    path: str
    sha256: str | None
    label: str | None
    reason: str
    releasable: bool
    run_id: str
    date: str  # ISO 8601, UTC
    uri: str | None = None
    snapshot: str | None = None  # None where validation stopped the run
    content: str | None = None  # see LeftOut

    @property
    def key(self) -> tuple[str, str | None, str]:
        return self.path, self.sha256, self.reason


@dataclass(frozen=True)
class Decisions:
    """The decisions of a person, by (path, sha256, label)."""

    made: dict[tuple[str, str | None, str | None], Decided] = field(default_factory=dict)

    def released(self, sha256: str, label: str) -> bool:
        return any(key[1:] == (sha256, label) for key, decided in self.made.items() if decided == "released")

    def dropped(self, path: str, sha256: str | None, label: str | None) -> bool:
        return self.made.get((path, sha256, label)) == "dropped"

    def released_labels(self) -> dict[str, set[str]]:
        """The labels that were released for each digest."""
        labels: dict[str, set[str]] = {}
        for (_, sha256, label), decided in self.made.items():
            if decided == "released" and sha256 and label:
                labels.setdefault(sha256, set()).add(label)
        return labels

    def digest(self) -> str:
        """SHA-256 of all decisions, on which a run's result depends."""
        return hashlib.sha256(json.dumps(sorted(map(str, self.made.items()))).encode()).hexdigest()


def register_path(name: str) -> str:
    return f"quarantine/{name}.jsonl"


def decisions_path(name: str) -> str:
    return f"quarantine/{name}.decisions.json"


def name_rows(table: pd.DataFrame, reason: str, releasable: bool = False) -> list[LeftOut]:
    """Rows of a catalogue as files that are left out for one reason."""
    rows = zip(table["path"], table["sha256"], table["label"], table["uri"], strict=True)
    return [LeftOut(path, sha256, label, reason, releasable, uri) for path, sha256, label, uri in rows]


def quarantine(run: Run, found: Iterable[LeftOut]) -> None:
    """Adds files to the quarantine of the run's model, and to `quarantine.jsonl` in the folder of the stage."""
    entries = [QuarantineEntry(**item._asdict(), run_id=run.run_id, date=run.started_at) for item in found]
    for path in (register_path(run.name), run.path(FILE)):
        _merge(run.workspace, path, entries)


def left_out(workspace: Workspace, source: Snapshot | Catalogue) -> list[QuarantineEntry]:
    """All that a snapshot, or a catalogue, and those before it left out."""
    before = source.catalogue if isinstance(source, Snapshot) else source.ingested
    earlier = left_out(workspace, before) if before else []
    own = read_entries(workspace, f"{source.folder}/{FILE}")
    return list({entry.key: entry for entry in [*earlier, *own]}.values())


def count_files(entries: Iterable[QuarantineEntry]) -> int:
    """How many files these entries name: one may be left out for several reasons."""
    return len({(entry.path, entry.label) for entry in entries})


def disputed(entries: Iterable[QuarantineEntry]) -> list[list[QuarantineEntry]]:
    """What was left out because it has several labels, each with an entry for each file and label: the very same file
    or text, and those whose pixels or words are the same. A person has to decide which label is right."""
    found: dict[str, dict[tuple[str, str], QuarantineEntry]] = {}
    for entry in entries:
        if entry.sha256 and entry.label and entry.uri:
            found.setdefault(entry.content or entry.sha256, {}).setdefault((entry.sha256, entry.label), entry)
    groups = [list(each.values()) for each in found.values()]
    return [group for group in groups if len({entry.label for entry in group}) > 1]


def reason_kind(reason: str) -> str:
    """The kind of a reason: the note of its expectation, or the text before the details.

    'contrast is 0.0, expected at least 0.01 (not-blank: standard deviation of grey)' is of the kind 'not blank'.
    """
    if expectation := re.search(r"\(([\w-]+): ", reason):
        return expectation[1].replace("-", " ")
    return re.split(r": | '| \(", reason, maxsplit=1)[0]


def count_by_reason(counts: Mapping[str, int], shown: int = 5) -> str:
    """`12 it has no label; 3 a system file or a hidden one`, the commonest first."""
    parts = [f"{count} {reason}" for reason, count in sorted(counts.items(), key=lambda item: -item[1])]
    return "; ".join(parts[:shown]) + (f"; {len(parts) - shown} more reasons" if len(parts) > shown else "")


def commonest_reasons(entries: Iterable[QuarantineEntry], shown: int = 5) -> str:
    """`12 files: it is empty (such as cat/1.jpg)`; reasons that differ in numbers and names only are one kind."""
    kinds: dict[str, list[QuarantineEntry]] = {}
    for entry in entries:
        kinds.setdefault(_VARYING.sub("", entry.reason), []).append(entry)
    commonest = sorted(kinds.values(), key=len, reverse=True)
    parts = [
        f"{len(alike)} file{'s' if len(alike) > 1 else ''}: {alike[0].reason} (such as {alike[0].path})"
        for alike in commonest[:shown]
    ]
    return "; ".join(parts) + (f"; {len(commonest) - shown} more reasons" if len(commonest) > shown else "")


def keep_run_quarantine(run: Run, entries: Sequence[QuarantineEntry], snapshot: str | None) -> None:
    """Writes all that a run left out into its own folder, and enters the snapshot that was made without it."""
    named = {entry.key: replace(entry, snapshot=entry.snapshot or snapshot) for entry in entries}
    _write(run.workspace, run.path(FILE), named.values())
    held = read_entries(run.workspace, register_path(run.name))
    updated = [entry if entry.snapshot else named.get(entry.key, entry) for entry in held]
    missing = [entry for key, entry in named.items() if key not in {each.key for each in held}]
    if updated != held or missing:
        _write(run.workspace, register_path(run.name), [*updated, *missing])


def run_quarantine(run: Run) -> list[QuarantineEntry]:
    """What this run has quarantined."""
    return read_entries(run.workspace, run.path(FILE))


def read_entries(workspace: Workspace, path: str) -> list[QuarantineEntry]:
    """The entries of a quarantine file, oldest first; none where it is absent."""
    if not workspace.exists(path):
        return []
    # Not by `splitlines`: a file's name may hold any of the other characters that it takes for a line's end.
    lines = workspace.read_bytes(path).decode().split("\n")
    return [QuarantineEntry(**json.loads(line)) for line in lines if line]


def list_quarantine(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    """A model's register, oldest first; each entry with its `status`: `held`, `released` or `dropped`."""
    made = read_decisions(workspace, name).made
    entries = read_entries(workspace, register_path(name))
    return [asdict(entry) | {"status": made.get((entry.path, entry.sha256, entry.label), "held")} for entry in entries]


def read_decisions(workspace: Workspace, name: str) -> Decisions:
    path = decisions_path(name)
    if not workspace.exists(path):
        return Decisions()
    rows = workspace.read_json(path)
    return Decisions({(row["path"], row["sha256"], row["label"]): row["decided"] for row in rows})


def release(workspace: Workspace, name: str, files: Iterable[str]) -> list[QuarantineEntry]:
    """Uses images, by path or digest, although an expectation rejected them; from the next run on.

    Raises:
        UsageError: a file is not in the quarantine, or its reason is one that no decision can mend.
    """
    return _decide(workspace, name, files, "released")


def drop(workspace: Workspace, name: str, files: Iterable[str]) -> list[QuarantineEntry]:
    """Leaves files out for good, by path or digest: later runs neither use nor report them.

    Raises:
        UsageError: a file is not in the quarantine.
    """
    return _decide(workspace, name, files, "dropped")


def _decide(workspace: Workspace, name: str, files: Iterable[str], decided: Decided) -> list[QuarantineEntry]:
    entries = read_entries(workspace, register_path(name))
    made = dict(read_decisions(workspace, name).made)
    found: list[QuarantineEntry] = []
    for file in files:
        named = [entry for entry in entries if file in (entry.path, entry.sha256)]
        if not named:
            raise UsageError(_unknown(name, file, entries))
        if decided == "released" and (fixed := [entry for entry in named if not entry.releasable]):
            raise UsageError(f"{file} can't be released: {fixed[0].reason}; mend it in the source instead")
        found += named
    made.update({(entry.path, entry.sha256, entry.label): decided for entry in found})
    rows = [
        {"path": path, "sha256": sha256, "label": label, "decided": value}
        for (path, sha256, label), value in sorted(made.items(), key=str)
    ]
    workspace.write_json(decisions_path(name), rows)
    return found


def _unknown(name: str, file: str, entries: list[QuarantineEntry]) -> str:
    near = difflib.get_close_matches(file, sorted({entry.path for entry in entries}), n=1, cutoff=0.5)
    hint = f"; near to it: {near[0]!r}" if near else ""
    return f"{file!r} is not in the quarantine of {name}{hint} (`headstart quarantine list {name}` shows all)"


def _merge(workspace: Workspace, path: str, entries: list[QuarantineEntry]) -> None:
    held = read_entries(workspace, path)
    known = {entry.key for entry in held}
    fresh = {entry.key: entry for entry in entries if entry.key not in known}
    if fresh or not held:
        _write(workspace, path, [*held, *fresh.values()])


def _write(workspace: Workspace, path: str, entries: Iterable[QuarantineEntry]) -> None:
    lines = [json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in entries]
    workspace.write_bytes(path, "".join(lines).encode())
