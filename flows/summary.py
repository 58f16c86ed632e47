"""A run's summary: the object that `retrain --json` prints, kept as `summary.json`, and what is kept with it.

A run is finished when its summary is written. Until then nothing but artifacts, rows of the stores and the snapshot is
there of it, so a run that is interrupted is simply made again: what it had done already is found by its keys.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

from tasks.display import Progress
from tasks.errors import SourceChangedError, WorkspaceError
from tasks.evaluate.thresholds import load_gates
from tasks.ingest.catalogue import build_catalogue
from tasks.ingest.entries import Listing
from tasks.ingest.listing import listing_digest, listing_table, remember_listing
from tasks.modality.kinds import kind_of
from tasks.records import Catalogue, Decision, Review, Run
from tasks.runs import Account, finished_runs, one_at_a_time, write_summary
from tasks.storage.corrections import read_corrections
from tasks.storage.lineage import lineage
from tasks.storage.quarantine import FILE, count_files, keep_run_quarantine, read_decisions, read_entries
from tasks.storage.repository import champion, read_manifest, version_path, was_in_service
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
    "cross_fit",
    "finetune",
    "export",
    "evaluate",
    "weigh",
    "variants",
    "publish",
    "report",
)
# Where a task's name is not its key in the summary, which is a word, and has been the same from the beginning.
TASKS = {"trunk": "extractor", "cross_fit": "cross-fit"}


def run_key(run: Run, catalogue: Catalogue) -> str:
    """The digest of all that a run's outcome depends on: the images, their labels and splits, the configuration, the
    gates, the suites, and what a person decided of the quarantine.

    Two runs with one key would do the same work to the same end.
    """
    table = read_table(run.workspace, catalogue.table_path, ["sha256", "label", "split"])
    rows = table.where(table.notna(), None).itertuples(index=False, name=None)
    rules = [
        run.config.digest(),
        load_gates(run.config.evaluate.gates, run.name).digest(),
        load_suite(run.config.suite),
        load_suite(run.config.validation.changes_suite),
        read_decisions(run.workspace, run.name).digest(),
    ]
    digest = hashlib.sha256(json.dumps(rules, sort_keys=True).encode())
    for row in sorted(rows, key=str):
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def unchanged(run: Run, key: str, account: Account) -> dict[str, Any] | None:
    """The summary of a run with nothing new, or None where there is something to do.

    Nothing is new where the last finished run of this name had the same key. With a champion the verdict is
    `unchanged`; without one, that run was refused and would be again. Where there was a champion and is none any more,
    its folder is gone, and another one is made.

    Args:
        key: of this run, from `run_key`.
    """
    last = next(finished_runs(run.workspace, run.name), None)
    if last is None or last.get("fingerprint") != key:
        return None
    version = champion(run.workspace, run.name)
    if version is None and last["version"] is not None:
        return None
    remember_listing(run)
    if version is None:
        refused = f"nothing is new since run {last['run_id']}, which was refused (--force runs it again):"
        reasons = [refused, *last["reasons"]]
        metrics = last["metrics"]
    else:
        reasons = ["nothing is new since the last run; the champion stays in service"]
        metrics = read_manifest(run.workspace, run.name, version)["metrics"]
    return {
        **last,
        "run_id": run.run_id,
        "verdict": "refused" if version is None else "unchanged",
        "reasons": reasons,
        "version": version,
        "model": _model(run, version),
        "images": {**last["images"], "new": 0, "embedded": 0},
        "metrics": metrics,
        "started_at": run.started_at,
        "timings_s": timings(account),
    }


def up_to_date(run: Run, listing: Listing, account: Account) -> dict[str, Any] | None:
    """As `unchanged`, without a flow: the ingest stage alone, where the source lists what it listed before.

    It is left to the flow where another run of the model is under way, and where files change while they are read.
    """
    if looks_new(run, listing):
        return None
    started = time.perf_counter()
    try:
        with one_at_a_time(run, timeout_s=0):
            with Progress("ingest", None, kind_of(run.config).items) as progress:
                catalogue = build_catalogue(run, progress.report)
            account.seconds["ingest"] = round(time.perf_counter() - started, 3)
            summary = unchanged(run, run_key(run, catalogue), account)
    except (SourceChangedError, WorkspaceError):
        return None
    if summary is None:
        run.workspace.remove(run.folder)
    return summary


def looks_new(run: Run, listing: Listing | None) -> bool:
    """A guess, before anything is read, whether a run has much to do: it starts the preparations early.

    It has where its model was never trained, where the configuration is another, or where the source lists other files
    than it did.

    Args:
        listing: of the source; None where it is not known yet: then it is not guessed.
    """
    last = next(finished_runs(run.workspace, run.name), None)
    if last is None or last.get("lineage", {}).get("config_digest") != run.config.digest():
        return True
    if listing is None:
        return False
    return listing_digest(listing_table(listing.entries, read_corrections(run.workspace))) != last.get("listing")


def summarise(run: Run, catalogue: Catalogue, review: Review, decision: Decision, account: Account) -> dict[str, Any]:
    """The summary of a run that came to a decision."""
    candidate, snapshot = decision.candidate, decision.candidate.head.features.snapshot
    verdict, reasons = "promoted" if decision.promote else "refused", list(decision.reasons)
    if decision.promote and was_in_service(run, candidate.version):
        verdict = "unchanged"
        reasons = [f"the retrain came to the very model that is in service as version {candidate.version}"]
    version = candidate.version if decision.promote else decision.champion_version
    return {
        **_common(run, catalogue, account, snapshot.id),
        "verdict": verdict,
        "reasons": reasons,
        "evidence": decision.evidence,
        "version": version,
        "model": _model(run, version) if decision.promote else run.workspace.display(candidate.onnx_path),
        "snapshot": snapshot.id,
        "images": _images(run, snapshot.table_path, account, catalogue, new=snapshot.new),
        "metrics": decision.metrics,
        "labels": list(snapshot.labels),
        "label_issues": review.suspects,
        "lineage": lineage(run, candidate.head, account.artifacts),
    }


def invalid_data(run: Run, catalogue: Catalogue, reasons: list[str], account: Account) -> dict[str, Any]:
    """The summary of a run that validation stopped."""
    version = champion(run.workspace, run.name)
    return {
        **_common(run, catalogue, account, None),
        "verdict": "invalid-data",
        "reasons": reasons,
        "evidence": None,
        "version": version,
        "model": _model(run, version),
        "snapshot": None,
        "images": _images(run, catalogue.table_path, account, catalogue, new=0),
        "metrics": {"test": {}, "validation": {}},
        "labels": [],
    }


def finish(run: Run, summary: dict[str, Any], account: Account) -> dict[str, Any]:
    """Keeps a summary, and with it what the run leaves in its folder and enters into the model's registers."""
    artifacts = summary["artifacts"]
    if folder := artifacts.get("weigh") or artifacts.get("evaluate"):
        run.workspace.write_bytes(run.path("decision.json"), run.workspace.read_bytes(f"{folder}/decision.json"))
    remember_listing(run)
    summary = {**summary, "timings_s": timings(account)}
    write_summary(run, summary)
    return summary


def timings(account: Account) -> dict[str, float]:
    """Seconds by stage, 0 for those that did not run, and the `total` so far."""
    return {"total": account.total_s, **{stage: account.seconds.get(TASKS.get(stage, stage), 0.0) for stage in STAGES}}


def _common(run: Run, catalogue: Catalogue, account: Account, snapshot: str | None) -> dict[str, Any]:
    keep_run_quarantine(run, list(_left_out(run, catalogue, account)), snapshot)
    return {
        "run_id": run.run_id,
        "name": run.name,
        "report": run.workspace.display(run.path("report.html")),
        "source": run.source,
        "started_at": run.started_at,
        "config": run.config.model_dump(by_alias=True),
        "listing": catalogue.listing,
        "corrections": {"corrected": catalogue.corrected, "dropped": catalogue.dropped},
        "artifacts": dict(account.artifacts),
    }


def _images(run: Run, table: str, account: Account, catalogue: Catalogue, *, new: int) -> dict[str, Any]:
    """Counts of files: of the images in use, of what was quarantined, and of what is of no interest, by reason."""
    used = int(read_table(run.workspace, table, ["copies"])["copies"].sum())
    quarantined = count_files(_left_out(run, catalogue, account))
    # Of a run that validation stopped, the catalogue still holds what validation left out.
    left_out = quarantined if table != catalogue.table_path else catalogue.quarantined
    return {
        "total": used + left_out,
        "new": new,
        "quarantined": quarantined,
        "embedded": account.embedded,
        "left_out": catalogue.left_out,
    }


def _left_out(run: Run, catalogue: Catalogue, account: Account) -> Iterator[Any]:
    folders = [catalogue.folder, *(account.artifacts.get(stage) for stage in ("validate", "split"))]
    for folder in filter(None, folders):
        yield from read_entries(run.workspace, f"{folder}/{FILE}")


def _model(run: Run, version: int | None) -> str | None:
    return None if version is None else run.workspace.display(version_path(run.name, version, "model.onnx"))
