"""A run's summary: the object that `retrain --json` prints, kept as `summary.json`; what tells that nothing is new."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

from tasks.evaluate.gates import load_gates
from tasks.ingest.entries import Listing
from tasks.ingest.listing import listing_digest, listing_table
from tasks.lineage import lineage
from tasks.records import (
    Candidate,
    Catalogue,
    Decision,
    FeatureExtractor,
    Features,
    Head,
    Run,
    Snapshot,
)
from tasks.runs import finished_runs
from tasks.storage.quarantine import read_decisions, run_quarantine
from tasks.storage.repository import champion, read_manifest, version_path
from tasks.storage.tables import read_table
from tasks.validate.suite import load_suite

STAGES = (
    "ingest",
    "validate",
    "split",
    "auto",
    "augment",
    "trunk",
    "extract",
    "finetune",
    "export",
    "evaluate",
    "variants",
    "publish",
    "report",
)
T = TypeVar("T")


class Stopwatch:
    """Calls stages and keeps each one's wall time, in seconds, by the name of its task."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def __call__(self, stage: Callable[..., T], *args: Any) -> T:
        started = time.perf_counter()
        try:
            return stage(*args)
        finally:
            name = getattr(stage, "name", stage.__name__)
            self.seconds[name] = round(time.perf_counter() - started, 3)

    def timings(self) -> dict[str, float]:
        """Seconds by stage, 0 for those that did not run, and the `total` so far."""
        total = round(time.perf_counter() - self._started, 3)
        return {"total": total, **{stage: self.seconds.get(stage, 0.0) for stage in STAGES}}


def fingerprint(run: Run, catalogue: Catalogue) -> str:
    """The digest of all that a run's outcome depends on: the images, their labels and splits, the configuration, the
    gates, the suite, and what a person decided of the quarantine.

    Two runs with one fingerprint would do the same work to the same end.
    """
    table = read_table(run.workspace, catalogue.table_path, ["sha256", "label", "split"])
    rows = table.where(table.notna(), None).itertuples(index=False, name=None)
    rules = [
        run.config.digest(),
        load_gates(run.config.evaluate.gates, run.name).digest(),
        load_suite(run.config.validation.suite),
        load_suite(run.config.validation.changes_suite),
        read_decisions(run.workspace, run.name).digest(),
    ]
    digest = hashlib.sha256(json.dumps(rules, sort_keys=True).encode())
    for row in sorted(rows, key=str):
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def settled(run: Run, print_of_run: str) -> dict[str, Any] | None:
    """The summary for a run with nothing new, or None where there is something to do.

    Nothing is new when the last finished run of this name had the same fingerprint. If a champion stands, the
    verdict is `unchanged`; if there is none, that run was refused and would be again.
    """
    last = next(finished_runs(run.workspace, run.name), None)
    if last is None or last.get("fingerprint") != print_of_run:
        return None
    version = champion(run.workspace, run.name)
    if version is None:
        reasons = [f"nothing is new since run {last['run_id']}, which was refused:", *last["reasons"]]
        metrics, model = last["metrics"], None
    else:
        reasons = ["nothing is new since the last run; the champion stands"]
        metrics = read_manifest(run.workspace, run.name, version)["metrics"]
        model = run.workspace.display(version_path(run.name, version, "model.onnx"))
    return {
        **last,
        "run_id": run.run_id,
        "verdict": "refused" if version is None else "unchanged",
        "reasons": reasons,
        "version": version,
        "model": model,
        "images": {**last["images"], "new": 0, "embedded": 0},
        "metrics": metrics,
        "started_at": run.started_at,
    }


def looks_new(run: Run, listing: Listing | None) -> bool:
    """A guess, before anything is read, whether a run has much to do: it starts the preparations early.

    It has where its model was never trained, where the configuration is another, or where the source lists other files
    than it did.

    Args:
        listing: what the source lists; None where that is not known yet: then it is not guessed.
    """
    last = next(finished_runs(run.workspace, run.name), None)
    if last is None or last.get("lineage", {}).get("config_digest") != run.config.digest():
        return True
    return listing is not None and listing_digest(listing_table(listing.entries)) != last.get("listing")


def summarise(
    run: Run,
    catalogue: Catalogue,
    snapshot: Snapshot,
    extractor: FeatureExtractor,
    features: Features,
    head: Head,
    candidate: Candidate,
    decision: Decision,
    print_of_run: str,
) -> dict[str, Any]:
    """The summary of a run that came to a decision."""
    files = int(read_table(run.workspace, snapshot.table_path, ["copies"])["copies"].sum())
    model = version_path(run.name, candidate.version, "model.onnx") if decision.promote else candidate.onnx_path
    return {
        "run_id": run.run_id,
        "verdict": "promoted" if decision.promote else "refused",
        "reasons": list(decision.reasons),
        "name": run.name,
        "version": candidate.version if decision.promote else decision.champion_version,
        "model": run.workspace.display(model),
        "report": run.workspace.display(run.path("report.html")),
        "snapshot": snapshot.id,
        "images": {
            "total": files + snapshot.quarantined,
            "new": snapshot.new,
            "quarantined": snapshot.quarantined,
            "embedded": features.embedded,
        },
        "metrics": decision.metrics,
        "labels": list(snapshot.labels),
        "source": run.source,
        "started_at": run.started_at,
        "config": run.config.model_dump(by_alias=True),
        "lineage": lineage(run, snapshot, extractor, head),
        "fingerprint": print_of_run,
        "listing": catalogue.listing,
    }


def invalid_data(run: Run, catalogue: Catalogue, reasons: list[str]) -> dict[str, Any]:
    """The summary of a run that validation stopped."""
    version = champion(run.workspace, run.name)
    files = int(read_table(run.workspace, catalogue.table_path, ["copies"])["copies"].sum())
    quarantined = len({(entry.path, entry.label) for entry in run_quarantine(run)})
    return {
        "run_id": run.run_id,
        "verdict": "invalid-data",
        "reasons": reasons,
        "name": run.name,
        "version": version,
        "model": None if version is None else run.workspace.display(version_path(run.name, version, "model.onnx")),
        "report": run.workspace.display(run.path("report.html")),
        "snapshot": None,
        "images": {"total": files + catalogue.quarantined, "new": 0, "quarantined": quarantined, "embedded": 0},
        "metrics": {"test": {}, "validation": {}},
        "labels": [],
        "source": run.source,
        "started_at": run.started_at,
        "config": run.config.model_dump(by_alias=True),
        "listing": catalogue.listing,
    }
