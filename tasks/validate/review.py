"""Checks that need stored features: label issues, near-duplicates that the perceptual hash missed, and feature drift.

It runs in parallel with the training of the head. The gates wait for it, because drift may stop the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from tasks.errors import InvalidDataError
from tasks.modality.kinds import kind_of
from tasks.modality.wording import worded
from tasks.records import Features, Review, Run, Snapshot
from tasks.storage.assignments import read_assignments, write_assignments
from tasks.storage.corrections import read_applied, read_corrections
from tasks.storage.feature_store import load_rows
from tasks.storage.rows import Rows
from tasks.storage.snapshots import read_snapshot
from tasks.validate.cards import CARDS, FILE, describe_rows, review_cards
from tasks.validate.changes import champion_snapshot, champion_snapshot_id
from tasks.validate.docs import build_docs
from tasks.validate.drift import draw_sample, embedding_p_value
from tasks.validate.duplicates import join_groups
from tasks.validate.label_issues import find_label_errors, out_of_fold_logits
from tasks.validate.learning_curve import DOUBLINGS, learning_curve
from tasks.validate.neighbours import near_in_features
from tasks.validate.suite import Finding, load_suite
from tasks.validate.validation import failures_to_stop, judge_metrics, warn, write_findings

LISTED_ISSUES = 100


def review_snapshot(run: Run, stored: Features) -> Review:
    """Finds label issues and near-duplicates in a snapshot, and measures drift, all from stored features.

    Writes `suspects.json`, the images whose label is more likely wrong than right (see `describe_rows`), the most
    likely first; `review.json`, which `headstart review` shows: {labels, cards} with further cards, less likely wrong
    (see `review_cards`); `learning_curve.json`; and the Data Docs. Adds its findings to `validation.json`. Labels are
    not changed, and those that a person has decided about are no issues. Near-duplicates join one group in the
    assignments, which keeps them in one split from the next run on; this run only reports them.

    Raises:
        InvalidDataError: drift of the features fails an expectation of severity `stop`.
    """
    snapshot = stored.snapshot
    table = read_snapshot(run.workspace, snapshot.id)
    # Of several layers the last: it shows copies best, and the ridge regressions take the cube of the width.
    last = next(iter(stored.extractor.widths), None)
    with load_rows(run.workspace, stored.extractor.key, table["sha256"].tolist(), [0], columns=last) as features:
        targets = _codes(table["label"], snapshot.labels)
        groups = pd.factorize(table["group"])[0]
        logits = out_of_fold_logits(features, targets, groups, len(snapshot.labels), DOUBLINGS)
        run.workspace.write_json(run.path("learning_curve.json"), learning_curve(logits, targets, snapshot.labels))
        # How many labels are wrong is estimated from those of the source: once the clearly wrong ones are corrected,
        # the others would look like none.
        given = _codes(_source_labels(run, snapshot, table), snapshot.labels)
        found = find_label_errors(logits[-1], np.where(given < 0, targets, given))
        confirmed = _confirmed(run, table)
        errors = replace(found, wrong=np.where(confirmed, 0, found.wrong))
        issues = describe_rows(table, errors.issues, errors, targets, snapshot.labels)
        run.workspace.write_json(run.path("suspects.json"), issues[:LISTED_ISSUES])
        joined, copies = _join_by_features(run, snapshot, table, features)
        cards = review_cards(table, joined, features, errors, targets, snapshot.labels, confirmed)
        run.workspace.write_json(run.path(FILE), {"labels": snapshot.labels, "cards": cards})
        findings = [_label_finding(issues, len(table), kind_of(run.config).items), copies]
        findings += judge_metrics(run, {"path": "the source", **_drift(run, snapshot, table, features)}, "features")
    _add_findings(run, findings)
    build_docs(run, snapshot.catalogue)
    if reasons := failures_to_stop(findings):
        raise InvalidDataError([worded(reason, run.config.task, snapshot.labels) for reason in reasons])
    warn(findings, run.config.task)
    return Review(suspects=len(issues), folder=run.folder)


def rules(run: Run, stored: Features) -> list[Any]:
    """Configuration and decisions that the review depends on, besides the features."""
    config = run.config.validation
    table = read_snapshot(run.workspace, stored.snapshot.id, ["sha256", "label"])
    decided = table["sha256"] + _source_labels(run, stored.snapshot, table)
    confirmed = "\n".join(decided[_confirmed(run, table)])
    return [
        *(run.name, config, load_suite(config.changes_suite)),
        champion_snapshot_id(run, stored.snapshot.catalogue.listing),
        *(CARDS, hashlib.sha256(confirmed.encode()).hexdigest()),
    ]


def _codes(labels: pd.Series, names: Sequence[str]) -> np.ndarray:
    """The index of each label among the names, int [N]; -1 for none of them."""
    return pd.Categorical(labels, categories=list(names)).codes.astype(np.int64)


def _source_labels(run: Run, snapshot: Snapshot, table: pd.DataFrame) -> pd.Series:
    """The label that the source gives each image, before corrections."""
    ingested = snapshot.catalogue.ingested or snapshot.catalogue
    changed = read_applied(run.workspace, ingested.folder).get("changed", [])
    before = table["sha256"].map({item["sha256"]: item["given"] for item in changed})
    return before.where(before.notna(), table["label"])


def _confirmed(run: Run, table: pd.DataFrame) -> np.ndarray:
    """Which images have their label by a person's decision, bool [N]."""
    rename = run.config.validation.rename
    decided = read_corrections(run.workspace).standing()
    labels = {sha256: rename.get(decision.label, decision.label) for sha256, decision in decided.items()}
    return (table["sha256"].map(labels) == table["label"]).to_numpy(bool)


def _label_finding(issues: Sequence[dict[str, Any]], count: int, items: str) -> Finding:
    expected = sum(item["wrong"] for item in issues)
    return Finding(
        expectation="label-suspects",
        column="label",
        severity="warn",
        success=not issues,
        observed=f"{len(issues)} of {count} {items} ({len(issues) / max(count, 1):.1%}), "
        f"of which about {expected:.0f} are wrong"
        if issues
        else f"0 of {count} {items}",
        unexpected_count=len(issues),
        examples=[
            {"path": item["path"], "value": f"{item['label']}, suggested {item['suggested']}"} for item in issues[:5]
        ],
        note=f"{items} whose label is more likely wrong than right, by a classifier trained without them",
        allowed="none",
    )


def _join_by_features(
    run: Run, snapshot: Snapshot, table: pd.DataFrame, features: np.ndarray | Rows
) -> tuple[pd.Series, Finding]:
    """Joins the groups of new images and of the images that their features show to be near-duplicates: the group of
    each image, and a finding."""
    assignments = read_assignments(run)
    new = table["sha256"].isin(assignments.loc[assignments["run_id"] == snapshot.catalogue.work, "sha256"]).to_numpy()
    pairs = near_in_features(features, new)
    before = table["group"].to_numpy(object)
    group = join_groups(table, table["group"], pairs.where(before[pairs.first] != before[pairs.second]))
    moved = table[(group != table["group"]).to_numpy()]
    if len(moved):
        joined = assignments["sha256"].map(dict(zip(table["sha256"], group, strict=True)))
        write_assignments(run, assignments.assign(group=joined.where(joined.notna(), assignments["group"])))
    substance = kind_of(run.config).substance
    return group, Finding(
        expectation="copies-by-features",
        column="group",
        severity="warn",
        success=moved.empty,
        observed=len(moved),
        unexpected_count=len(moved),
        examples=[
            {"path": path, "value": split} for path, split in zip(moved["path"][:5], moved["split"][:5], strict=True)
        ],
        note=f"near-duplicates, by features and {substance}, that were in different groups until now",
        allowed="none",
    )


def _drift(run: Run, snapshot: Snapshot, table: pd.DataFrame, features: np.ndarray | Rows) -> dict[str, float | None]:
    """The test of the features of new images against those of the champion's images of the same classes."""
    before = champion_snapshot(run, snapshot.catalogue.listing)
    if before is None:
        return {"embedding_p_value": None}
    known = table["sha256"].isin(before["sha256"]).to_numpy()
    old, new = np.flatnonzero(known), np.flatnonzero(~known)
    sample = draw_sample(table["label"].iloc[old], table["label"].iloc[new])
    if sample is None:
        return {"embedding_p_value": None}
    drawn = np.concatenate([old[sample.old], new[sample.new]])
    return {"embedding_p_value": embedding_p_value(features[drawn], sample)}


def _add_findings(run: Run, findings: Sequence[Finding]) -> None:
    """Adds findings to those of validation, and replaces those of the same name, so a retry adds nothing twice."""
    path = run.path("validation.json")
    earlier = run.workspace.read_json(path) if run.workspace.exists(path) else []
    names = {finding.expectation for finding in findings}
    kept = [Finding(**item) for item in earlier if item["expectation"] not in names]
    write_findings(run, [*kept, *findings])
