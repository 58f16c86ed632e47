"""Photographs that arrive as a copy writes them: a piece at a time, and in batches; and what has to hold at the end."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.storage.feature_store import feature_store
from tasks.storage.repository import champion, read_manifest
from tasks.storage.snapshots import read_snapshot
from tasks.workspace import Workspace
from tests.up import moment


def write_slowly(path: Path, content: bytes, pause: Any, pieces: int = 2) -> None:
    """Writes a file in `pieces`, calling `pause` between them: whoever reads it meanwhile finds it cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = -(-len(content) // pieces)
    with path.open("wb") as file:
        for start in range(0, len(content), size):
            if start:
                pause()
            file.write(content[start : start + size])
            file.flush()


def digests(folder: Path) -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.jpg")}


def last_snapshot(workspace: Workspace, name: str) -> set[str]:
    """The images of the last run that came to a decision."""
    decided = [json.loads(path.read_text()) for path in sorted(Path(workspace.path("runs")).glob("*/summary.json"))]
    snapshot = next(each["snapshot"] for each in reversed(decided) if each["name"] == name and each["snapshot"])
    return set(read_snapshot(workspace, snapshot, ["sha256"])["sha256"])


def embedded(workspace: Workspace, name: str) -> list[tuple[str, int]]:
    """The key of each stored row of the champion's features: one that comes twice was embedded twice."""
    key = read_manifest(workspace, name, champion(workspace, name) or 0)["lineage"]["recipe"]
    return [
        (sha256, view)
        for part in feature_store(workspace, key).read(["sha256", "view"])
        for sha256, view in zip(part["sha256"].to_pylist(), part["view"].to_pylist(), strict=True)
    ]


def overlaps(runs: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The pairs of finished runs, oldest first, of which the later began to work before the earlier had ended."""
    spans = [(moment(run["start_time"]), moment(run["end_time"]), run["id"]) for run in runs]
    return [(a[2], b[2]) for a, b in itertools.pairwise(spans) if b[0] < a[1]]
