"""Runs: their identity, what they spent, their folder's summary, and the rule that one name has one run at a time."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tasks.config import Config, parse_config
from tasks.errors import UsageError, WorkspaceError
from tasks.records import Run
from tasks.workspace import Workspace, check_name

CLEANING = ".cleaning.lock"  # no model's name begins with a dot
PATHS = ("report", "model")  # of a summary: files of the workspace
RUN_ID = re.compile(r"\d{8}T\d{6}-(?P<name>.+)-[0-9a-f]{6}")


@dataclass
class Account:
    """What a run spent: seconds by task, and the images that it embedded, each counted once however many extractors and
    views saw it; and the folders of the artifacts that it is made of, by stage."""

    started: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)
    embedded: int = 0
    artifacts: dict[str, str] = field(default_factory=dict)

    @property
    def total_s(self) -> float:
        """Seconds since the run began, or the command that was given for it."""
        return round(time.perf_counter() - self.started, 3)


def new_run(source: str, name: str, workspace: str, config: Config, now: datetime | None = None) -> Run:
    """A new run, whose id sorts by time and names the model. Raises ConfigError for a bad name."""
    started = now or datetime.now(UTC)
    return Run(
        run_id=f"{started:%Y%m%dT%H%M%S}-{check_name(name)}-{secrets.token_hex(3)}",
        name=name,
        source=source,
        workspace=Workspace(workspace),
        config=config,
        started_at=started.isoformat(timespec="seconds"),
    )


def finished_runs(workspace: Workspace, name: str) -> Iterator[dict[str, Any]]:
    """The summaries of a model's finished runs, newest first; runs with nothing new have none."""
    for run_id in reversed(workspace.names("runs")):
        match = RUN_ID.fullmatch(run_id)
        if match and match["name"] == name and workspace.exists(f"runs/{run_id}/summary.json"):
            yield _read_summary(workspace, run_id)


def finished_run(workspace: Workspace, run_id: str) -> tuple[Run, dict[str, Any]]:
    """An earlier run and its summary. Raises UsageError where there is no such finished run."""
    match = RUN_ID.fullmatch(run_id)
    if match is None or not workspace.exists(f"runs/{run_id}/summary.json"):
        raise UsageError(f"{workspace.url} has no finished run {run_id!r}; `headstart status` lists the runs")
    summary = _read_summary(workspace, run_id)
    run = Run(
        run_id=run_id,
        name=match["name"],
        source=summary["source"],
        workspace=workspace,
        config=parse_config(summary["config"]),
        started_at=summary["started_at"],
    )
    return run, summary


def write_summary(run: Run, summary: dict[str, Any]) -> None:
    """Keeps a run's summary. Its paths are kept relative to the workspace, which may be moved or copied."""
    paths = {key: summary[key] and run.workspace.relative(summary[key]) for key in PATHS if key in summary}
    run.workspace.write_json(f"runs/{run.run_id}/summary.json", {**summary, **paths})


def _read_summary(workspace: Workspace, run_id: str) -> dict[str, Any]:
    """A run's summary, with the paths that it has in this workspace."""
    summary = workspace.read_json(f"runs/{run_id}/summary.json")
    report = f"runs/{run_id}/report.html"
    if str(summary.get("report", "")).endswith(report):
        # Earlier releases kept full paths, perhaps of another place.
        root = summary["report"].removesuffix(report)
        for key in PATHS:
            if summary.get(key) and summary[key].startswith(root):
                summary[key] = workspace.display(summary[key].removeprefix(root))
    return summary


@contextmanager
def one_at_a_time(run: Run, timeout_s: float = 3600) -> Iterator[None]:
    """Holds the name's lock: two retrains of one name never run at the same time, two of different names may.

    The lock is the operating system's, so it is released when its process ends or is killed. Object stores have no
    locks: `flows.slot` uses a slot on Prefect's server there.

    Raises:
        WorkspaceError: another run, or a cleaning, holds a lock for longer than `timeout_s`.
    """
    if not run.workspace.is_local:
        yield
        return
    with _lock(run.workspace, f"{run.name}.lock", f"another retrain of {run.name}, or `headstart clean`,", timeout_s):
        # Waited for, not held: a cleaning that starts from now on finds the name's lock taken.
        with _lock(run.workspace, CLEANING, "`headstart clean`", timeout_s):
            pass
        yield


def is_locked(workspace: Workspace, name: str) -> bool:
    """Whether a run of this name, or a cleaning, is active in a local workspace."""
    if not workspace.exists(f"locks/{name}.lock"):
        return False
    try:
        with _lock(workspace, f"{name}.lock", "", 0):
            return False
    except WorkspaceError:
        return True


@contextmanager
def no_run(workspace: Workspace) -> Iterator[None]:
    """Keeps every retrain from starting, the counterpart of `one_at_a_time`. Without effect on an object store.

    Raises:
        WorkspaceError: a retrain, or another such block, is active.
    """
    if not workspace.is_local:
        yield
        return
    with ExitStack() as held:
        held.enter_context(_lock(workspace, CLEANING, "another `headstart clean`", 0))
        for file in workspace.names("locks"):
            if file != CLEANING:
                held.enter_context(_lock(workspace, file, f"a retrain of {file.removesuffix('.lock')}", 0))
        yield


@contextmanager
def _lock(workspace: Workspace, file: str, holder: str, timeout_s: float) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(workspace.path(f"locks/{file}"))
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout:
        waited = f"has held {lock.lock_file} for {timeout_s:.0f} s" if timeout_s else "is under way"
        raise WorkspaceError(f"{holder} {waited}; run again when it is done") from None
    try:
        yield
    finally:
        lock.release()


def task_of(summary: Mapping[str, Any]) -> Literal["image", "text"]:
    """What a run's items are, by its summary; runs of earlier releases were of images."""
    return "text" if summary.get("config", {}).get("ingest", {}).get("task") == "text" else "image"
