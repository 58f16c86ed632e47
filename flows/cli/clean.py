"""`headstart clean`: merges the small parts of the stores, and removes what no model needs any more.

Needed are, of every model, the images of its champion's snapshot, of its last decided run's snapshot, of its newest
run's catalogue (finished or not) and of the pool that was last chosen from, and the keys of its champion and of its
last decided run. A key that was written to within `GRACE_DAYS` is needed, too: it may be an experiment under way.

Everything that is removed here can be made again, or never was a version: no published one and nothing in `snapshots/`
is touched. All that is needed is read before anything is removed, so what can't be read stops the command. A merged
part is written before those that it replaces are removed; where the process dies between the two, rows are there twice
until the next time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks.ingest.signatures import signature_store
from tasks.modality.kinds import KINDS
from tasks.pool.batches import POOL, labelling_folder
from tasks.runs import RUN_ID, finished_runs, no_run
from tasks.storage.assignments import assignments_path
from tasks.storage.feature_store import feature_store
from tasks.storage.part_store import PartStore
from tasks.storage.repository import champion, read_manifest, unfinished
from tasks.storage.tables import read_table
from tasks.workspace import FileInfo, Workspace

GRACE_DAYS = 7
ABANDONED_WRITE_DAYS = 1
TARGET_PART_BYTES = 64 << 20
SMALL_PART_BYTES = TARGET_PART_BYTES // 2
# A large part is written again only where so many of its rows go.
MIN_DEAD_SHARE = 0.1


@dataclass(frozen=True)
class Needed:
    """What a workspace's models need: images by their SHA-256, feature keys, and the folders of artifacts."""

    images: frozenset[str]
    keys: frozenset[str]
    artifacts: frozenset[str]


@dataclass
class Cleaned:
    """What was done, or would be: bytes freed by folder, and the parts before and after merging."""

    dry_run: bool
    freed: dict[str, int] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=lambda: {"before": 0, "after": 0})

    def add(self, folder: str, freed_bytes: int) -> None:
        self.freed[folder] = self.freed.get(folder, 0) + freed_bytes

    def as_dict(self) -> dict[str, Any]:
        return {
            "dry_run": self.dry_run,
            "freed_bytes": sum(self.freed.values()),
            "freed": self.freed,
            "parts": self.parts,
        }


def clean(workspace: Workspace, *, dry_run: bool = False) -> Cleaned:
    """Cleans a workspace, or only finds out what that would free.

    Raises:
        WorkspaceError: a retrain or another cleaning is under way (`dry_run` does not mind), or what says which rows
            are needed can't be read.
    """
    if dry_run:
        return _clean(workspace, Cleaned(dry_run))
    with no_run(workspace):
        return _clean(workspace, Cleaned(dry_run))


def _clean(workspace: Workspace, done: Cleaned) -> Cleaned:
    needed = what_is_needed(workspace)
    recent = datetime.now(UTC) - timedelta(days=GRACE_DAYS)
    for folder in workspace.names("features"):
        files = workspace.files(f"features/{folder}")
        if _key(folder) in needed.keys or any(file.modified >= recent for file in files):
            _compact(feature_store(workspace, folder), lambda keys: keys["sha256"].isin(needed.images), done)
        else:
            _remove(workspace, files, done)
            if not done.dry_run:
                workspace.remove(f"features/{folder}")
    for kind in KINDS.values():
        _compact(
            kind.store(workspace),
            lambda keys, kind=kind: keys["sha256"].isin(needed.images) & (keys["inspector"] == kind.inspector),
            done,
        )
    _compact(signature_store(workspace), lambda keys: keys["sha256"].map(bytes.hex).isin(needed.images), done)
    _remove(workspace, _unneeded_files(workspace, needed, recent), done)
    for folder in list(_unneeded_folders(workspace, needed, recent)):
        _remove(workspace, workspace.files(folder), done)
        if not done.dry_run:
            workspace.remove(folder)
    return done


def cleaned_text(done: Cleaned) -> str:
    """The same for a person."""
    freed, are = ("would free", "would be") if done.dry_run else ("freed", "are now")
    lines = [f"  {folder}: {size:,}" for folder, size in done.freed.items() if size]
    parts = f"{done.parts['before']} parts of the stores {are} {done.parts['after']}"
    return "\n".join([f"{freed} {sum(done.freed.values()):,} bytes", *lines, parts])


def what_is_needed(workspace: Workspace) -> Needed:
    """What the models of a workspace need."""
    images, keys, artifacts = set(), set(), set()
    for name in sorted(_model_names(workspace)):
        for path in _image_tables(workspace, name):
            images.update(read_table(workspace, path, ["sha256"])["sha256"])
        for lineage in _lineages(workspace, name):
            # Versions that were published before a model could have two keys name one.
            keys |= {lineage["recipe"], *lineage.get("recipes", []), _key(_extractor_name(lineage))}
            artifacts |= {f"artifacts/extractor/{_extractor_name(lineage)}", *lineage.get("artifacts", {}).values()}
        for summary in finished_runs(workspace, name):
            artifacts |= set(summary.get("artifacts", {}).values())
    return Needed(images=frozenset(images), keys=frozenset(keys), artifacts=frozenset(artifacts))


def _model_names(workspace: Workspace) -> set[str]:
    runs = (RUN_ID.fullmatch(run_id) for run_id in workspace.names("runs"))
    known = (file.removesuffix(".parquet") for file in workspace.names("snapshots/assignments"))
    return {*workspace.names("models"), *(match["name"] for match in runs if match), *known}


def _image_tables(workspace: Workspace, name: str) -> Iterator[str]:
    """The tables whose images a model needs."""
    found = [f"snapshots/{lineage['snapshot']}.parquet" for lineage in _lineages(workspace, name)]
    for run_id in reversed(workspace.names("runs")):
        match = RUN_ID.fullmatch(run_id)
        if match and match["name"] == name and workspace.exists(f"runs/{run_id}/catalogue.parquet"):
            found.append(f"runs/{run_id}/catalogue.parquet")
            break
    found += [pool for pool in [f"{labelling_folder(name)}/{POOL}"] if workspace.exists(pool)]
    # Its runs were deleted: all that it ever met is needed.
    yield from (path for path in found or [assignments_path(name)] if workspace.exists(path))


def _lineages(workspace: Workspace, name: str) -> Iterator[dict[str, Any]]:
    """Where the champion comes from, and the last run that came to a model."""
    version = champion(workspace, name)
    if version is not None:
        yield read_manifest(workspace, name, version)["lineage"]
    decided = (summary["lineage"] for summary in finished_runs(workspace, name) if "lineage" in summary)
    yield from islice(decided, 1)


def _extractor_name(lineage: dict[str, Any]) -> str:
    """What the extractor's folder is called (in older workspaces its file)."""
    folder, _, file = lineage.get("trunk", lineage["recipe"]).rpartition("/")
    return file if folder in ("", "trunks") else folder.rsplit("/", 1)[-1]


def _key(name: str) -> str:
    """The key that a file or folder is named after: `<key>`, `<key>-keras`, `<key>-int8-<name>`, `<key>.onnx`."""
    return name.split(".")[0].split("-")[0]


def _unneeded_files(workspace: Workspace, needed: Needed, recent: datetime) -> Iterator[FileInfo]:
    for folder in ("trunks", "trials", "unfinished"):  # of older workspaces
        yield from (file for file in workspace.files(folder) if file.modified < recent)
    yield from (file for file in workspace.files("images") if file.name not in needed.images)
    abandoned = datetime.now(UTC) - timedelta(days=ABANDONED_WRITE_DAYS)
    for folder in ("features", "inspections", "text_inspections", "stamps", "artifacts", "quarantine", "inbox"):
        for file in workspace.files(folder):
            if file.name.startswith(".") and file.name.endswith(".part") and file.modified < abandoned:
                yield file


def _unneeded_folders(workspace: Workspace, needed: Needed, recent: datetime) -> Iterator[str]:
    """Folders of artifacts, of interrupted runs and of interrupted publishes."""
    for stage in workspace.names("artifacts"):
        folders = {f"artifacts/{stage}/{key}" for key in workspace.names(f"artifacts/{stage}")}
        yield from (each for each in sorted(folders - needed.artifacts) if _is_older(workspace, each, recent))
    for run_id in workspace.names("runs"):
        finished = workspace.exists(f"runs/{run_id}/summary.json")
        if not finished and _is_older(workspace, f"runs/{run_id}", recent):
            yield f"runs/{run_id}"
    abandoned = datetime.now(UTC) - timedelta(days=ABANDONED_WRITE_DAYS)
    for name in workspace.names("models"):
        yield from (each for each in unfinished(workspace, name) if _is_older(workspace, each, abandoned))


def _is_older(workspace: Workspace, folder: str, time: datetime) -> bool:
    """Whether all files of a folder, of which there is one at least, were last written before `time`."""
    files = workspace.files(folder)
    return bool(files) and all(file.modified < time for file in files)


def _remove(workspace: Workspace, files: Iterable[FileInfo], done: Cleaned) -> None:
    for path, file in {file.path: file for file in files}.items():
        done.add(path.split("/")[0], file.size_bytes)
        if not done.dry_run:
            workspace.remove(path)


def _compact(store: PartStore, needed: Callable[[pd.DataFrame], pd.Series], done: Cleaned) -> None:
    """Writes the rows of small parts that are needed, each key once, into large parts; then removes the small ones.

    Args:
        needed: for a frame of keys, bool for each row.
    """
    sizes = _sizes(store)
    keys = {path: _keys(store, path) for path in sorted(sizes, key=lambda path: (-sizes[path], path))}
    if not keys:
        return
    table = pd.concat(keys.values(), keys=keys.keys(), names=["part"])
    keep = needed(table) & ~table.duplicated()
    kept = {path: keep.loc[[path]].to_numpy() if len(part) else np.zeros(0, bool) for path, part in keys.items()}
    dead = {path: 1 - mask.mean() if len(mask) else 1.0 for path, mask in kept.items()}
    chosen = [path for path in keys if sizes[path] < SMALL_PART_BYTES or dead[path] > MIN_DEAD_SHARE]
    if len(chosen) == 1 and dead[chosen[0]] == 0:
        chosen = []
    done.parts["before"] += len(sizes)
    estimate = round(sum(sizes[path] * (1 - dead[path]) for path in chosen))
    if done.dry_run:
        written, count = estimate, -(-estimate // TARGET_PART_BYTES)
    else:
        new = {store.append(merged) for merged in _merged(store, chosen, kept)}
        for path in chosen:
            if path not in new:
                store.workspace.remove(path)
        after = _sizes(store)
        count, written = len(new), sum(after[path] for path in new)
    done.parts["after"] += len(sizes) - len(chosen) + count
    done.add(store.folder.split("/")[0], sum(sizes[path] for path in chosen) - written)


def _sizes(store: PartStore) -> dict[str, int]:
    """The bytes of each part."""
    return {
        file.path: file.size_bytes for file in store.workspace.files(store.folder) if file.path.endswith(".parquet")
    }


def _keys(store: PartStore, path: str) -> pd.DataFrame:
    tables = list(store.read_part(path, store.key))
    return pa.concat_tables(tables).to_pandas() if tables else pd.DataFrame(columns=store.key)


def _merged(store: PartStore, paths: list[str], kept: dict[str, np.ndarray]) -> Iterator[pa.Table]:
    """The rows that are kept, as tables of about the size of a large part."""
    waiting: list[pa.Table] = []
    for path in paths:
        start = 0
        for table in store.read_part(path):
            store.schema = table.schema  # with the width of its rows
            waiting.append(table.filter(pa.array(kept[path][start : start + table.num_rows])))
            start += table.num_rows
            if sum(part.nbytes for part in waiting) >= TARGET_PART_BYTES:
                yield pa.concat_tables(waiting)
                waiting = []
    if any(part.num_rows for part in waiting):
        yield pa.concat_tables(waiting)
