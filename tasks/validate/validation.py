"""Validation of a catalogue: runs the suite, quarantines rows, and decides whether to stop.

Removing rows can make a class too small, and removing that class can leave a single one. So the suite runs until it
rejects no further row, and its last pass decides.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from tasks.errors import InvalidDataError
from tasks.modality.kinds import kind_of
from tasks.modality.wording import worded
from tasks.records import Catalogue, Run
from tasks.storage.assignments import read_assignments
from tasks.storage.quarantine import (
    Decisions,
    LeftOut,
    commonest_reasons,
    count_files,
    left_out,
    name_rows,
    quarantine,
    read_decisions,
)
from tasks.storage.tables import catalogue_schema, read_table, write_table
from tasks.validate.changes import champion_snapshot, champion_snapshot_id, describe_changes
from tasks.validate.docs import build_docs, keep_results
from tasks.validate.duplicates import content_digests, find_groups
from tasks.validate.suite import Finding, SuiteRunner, Verdict, load_suite

log = logging.getLogger(__name__)

BUDGET = "quarantine-budget"


def validate(run: Run, catalogue: Catalogue) -> Catalogue:
    """Runs the configured suite over a catalogue; returns the catalogue of the images that passed.

    First writes `validated.parquet`, `validation.json` (a list of `Finding`s), the results for the Data Docs, and the
    rejected rows to the quarantine; then decides. Builds the Data Docs only if it stops the run; otherwise the review
    does.

    Raises:
        InvalidDataError: an expectation of severity `stop` fails for the remaining images, or the quarantine is over
            budget.
        ConfigError: the suite can't be read or is not valid.
    """
    suite = load_suite(run.config.suite)
    table = read_table(run.workspace, catalogue.table_path)
    if run.config.validation.near_duplicates:
        table["group"] = find_groups(table, read_assignments(run))
        table["pixels"] = content_digests(table, run.config.ingest.max_pixels)
    runner = SuiteRunner(suite, run.config.validation.model_dump())
    released = _released(table, read_decisions(run.workspace, run.name))
    passes, kept, rejected = _run_until_unchanged(runner, table, released)
    unusable = {entry.path for entry in left_out(run.workspace, catalogue)} - set(table["path"])  # as ingest found
    quarantine(run, _left_out(table, rejected))
    faulty = table.loc[[row for row, (_, counts) in rejected.items() if counts], "copies"].sum()
    findings = _over_all_passes(passes)
    findings.append(_budget(run, len(unusable) + int(faulty), len(unusable) + int(table["copies"].sum())))
    keep_results(run, "images", [verdict.result for verdict in passes])
    findings += judge_changes(run, catalogue, kept)
    write_findings(run, findings)
    path = run.path("validated.parquet")
    digest = write_table(run.workspace, path, kept, catalogue_schema(run.config.task))
    validated = replace(
        catalogue, digest=digest, images=len(kept), table_path=path, folder=run.folder, ingested=catalogue
    )
    if reasons := _reasons_to_stop(findings, table, kept, rejected):
        if any(finding.expectation == BUDGET and not finding.success for finding in findings):
            entries = {entry.key: entry for entry in left_out(run.workspace, validated)}
            reasons.append(f"the commonest reasons: {commonest_reasons(entries.values())}")
        build_docs(run, validated)
        raise InvalidDataError([worded(reason, run.config.task, set(table["label"])) for reason in reasons])
    warn(findings, run.config.task)
    return replace(validated, quarantined=count_files(left_out(run.workspace, validated)))


def rules(run: Run, catalogue: Catalogue) -> list[Any]:
    """Configuration and state that validation depends on, besides the catalogue."""
    config = run.config.validation
    champion = champion_snapshot_id(run, catalogue.listing)
    decisions = read_decisions(run.workspace, run.name).digest()
    return [run.name, config, load_suite(run.config.suite), load_suite(config.changes_suite), champion, decisions]


def judge_changes(run: Run, catalogue: Catalogue, table: pd.DataFrame) -> list[Finding]:
    """The findings of the suite of changes since the champion's snapshot; none without a champion.

    Args:
        table: of the catalogue, what passed the suite of images.
    """
    before = champion_snapshot(run, catalogue.listing)
    return [] if before is None else judge_metrics(run, describe_changes(before, table, kind_of(run.config)))


def judge_metrics(run: Run, metrics: Mapping[str, Any], part: str = "changes") -> list[Finding]:
    """The findings of the suite of changes on the metrics that are not null; `part` is their name in the Data Docs."""
    config = run.config.validation
    row = pd.DataFrame([metrics])
    runner = SuiteRunner.for_metrics(load_suite(config.changes_suite), config.model_dump(), row)
    verdict = runner.run(row)
    keep_results(run, part, [verdict.result])
    return verdict.findings


def write_findings(run: Run, findings: Sequence[Finding]) -> None:
    """Writes `validation.json`."""
    run.workspace.write_json(run.path("validation.json"), [finding.to_json() for finding in findings])


def failures_to_stop(findings: Sequence[Finding]) -> list[str]:
    """A sentence for each failed expectation of severity `stop`."""
    return [finding.sentence() for finding in findings if finding.severity == "stop" and not finding.success]


def warn(findings: Sequence[Finding], task: str) -> None:
    """Logs failed expectations as warnings, for the items of a task."""
    for finding in findings:
        if not finding.success:
            log.warning("%s: %s", finding.severity, worded(finding.sentence(), task))


def with_derived_columns(table: pd.DataFrame) -> pd.DataFrame:
    """A catalogue with further columns for expectations.

    `class_images`: items of the row's class. `imbalance`: items of the largest class / `class_images`. `group_labels`:
    number of labels in the row's group of near-duplicates; `group_labels_note` names its items. `pixel_labels`
    of images, `word_labels` of texts, and its note: the same of the items with the very same pixels or words. Of
    images: `side_px`, the shorter side, and `aspect_ratio`, longer side / shorter side.
    """
    class_images = table.groupby("label")["label"].transform("size").astype("int64")
    groups = table["group"].where(table["group"].notna(), table["sha256"])
    same = "pixel_labels" if "width_px" in table else "word_labels"
    pixels = table["pixels"].where(table["pixels"].notna(), table["sha256"]) if "pixels" in table else table["sha256"]
    labels = table.groupby(groups)["label"].transform("nunique").astype("int64")
    same_labels = table.groupby(pixels)["label"].transform("nunique").astype("int64")
    table = table.assign(
        group_labels=labels,
        group_labels_note=_name_members(table, groups, labels > 1),
        class_images=class_images,
        imbalance=class_images.max() / class_images,
        **{same: same_labels, f"{same}_note": _name_members(table, pixels, same_labels > 1)},
    )
    if "width_px" not in table:
        return table
    sides = table[["width_px", "height_px"]]
    return table.assign(side_px=sides.min(axis=1), aspect_ratio=sides.max(axis=1) / sides.min(axis=1).clip(lower=1))


def _name_members(table: pd.DataFrame, groups: pd.Series, wanted: pd.Series) -> pd.Series:
    """`'cat' (cat/a.jpg), 'dog' (dog/b.jpg)` for the groups of the wanted rows; null elsewhere."""
    named = (table["label"].map(repr) + " (" + table["path"] + ")")[wanted]
    return named.groupby(groups[wanted]).transform(", ".join).reindex(table.index)


def _run_until_unchanged(
    runner: SuiteRunner, table: pd.DataFrame, released: set[int]
) -> tuple[list[Verdict], pd.DataFrame, dict[int, tuple[str, bool]]]:
    """All passes of the suite, the kept rows, and the rejected rows with their reasons.

    Keeps rows that a person `released`, unless their class is too small.
    """
    kept, rejected, passes = table, {}, []
    while True:
        verdict = runner.run(with_derived_columns(kept))
        passes.append(verdict)
        new = {row: why for row, why in verdict.rejected.items() if row not in released or not why[1]}
        if not new:
            return passes, kept, rejected
        rejected.update(new)
        kept = kept.drop(index=list(new))


def _released(table: pd.DataFrame, decisions: Decisions) -> set[int]:
    labels = decisions.released_labels()
    rows = table[table["sha256"].isin(list(labels))]
    return {
        row
        for row, sha256, label in zip(rows.index, rows["sha256"], rows["label"], strict=True)
        if label in labels[sha256]
    }


def _over_all_passes(passes: Sequence[Verdict]) -> list[Finding]:
    """The findings of the last pass; those of rules that quarantine are summed over all passes."""
    last = passes[-1].findings
    earlier = {}
    for verdict in reversed(passes[:-1]):
        earlier |= {finding.expectation: finding for finding in verdict.findings if not finding.success}
    counts: dict[str, int] = {}
    for verdict in passes:
        for finding in verdict.findings:
            counts[finding.expectation] = counts.get(finding.expectation, 0) + finding.unexpected_count
    return [
        replace(earlier[finding.expectation], unexpected_count=counts[finding.expectation])
        if finding.severity == "quarantine" and finding.expectation in earlier
        else finding
        for finding in last
    ]


def _left_out(table: pd.DataFrame, rejected: dict[int, tuple[str, bool]]) -> list[LeftOut]:
    rows = table.loc[list(rejected)]
    named = zip(name_rows(rows, ""), rejected.values(), _disputed_content(table)[rows.index], strict=True)
    return [item._replace(reason=why, releasable=faulty, content=content) for item, (why, faulty), content in named]


def _disputed_content(table: pd.DataFrame) -> pd.Series:
    """The digest of each item's pixels or words, where items with other labels have the same; None elsewhere."""
    if "pixels" not in table:
        return pd.Series(None, table.index, dtype=object)
    labels = table.groupby("pixels")["label"].transform("nunique")
    return table["pixels"].astype(object).where(labels > 1, None)


def _budget(run: Run, quarantined: int, files: int) -> Finding:
    """Whether too much of the source was quarantined, not counting classes that are too small."""
    share = quarantined / files if files else 0.0
    allowed = run.config.validation
    return Finding(
        expectation=BUDGET,
        column=None,
        severity="stop",
        success=share <= allowed.max_quarantined_share and quarantined <= allowed.max_quarantined,
        observed=f"{quarantined} of {files} files ({share:.1%})",
        unexpected_count=0,
        examples=[],
        note="quarantined files of the source, as a share and a count",
        allowed=f"at most {allowed.max_quarantined_share:.1%} (validate.max_quarantined_share) and "
        f"{allowed.max_quarantined} files (validate.max_quarantined)",
    )


def _reasons_to_stop(
    findings: Sequence[Finding],
    table: pd.DataFrame,
    kept: pd.DataFrame,
    rejected: dict[int, tuple[str, bool]],
) -> list[str]:
    """Why the run has to stop, and what was left out before; empty where it can continue."""
    reasons = failures_to_stop(findings)
    if reasons and rejected:
        lost = sorted(set(table["label"]) - set(kept["label"]))
        reasons.append(
            f"{len(rejected)} of {len(table)} images were quarantined before that"
            + (f", with them all of the classes {_counted(table, lost)}" if lost else "")
        )
    if reasons and kept["label"].nunique() < 2:
        reasons.append(f"the classes left are {_counted(kept, sorted(set(kept['label']))) or 'none'}")
    return reasons


def _counted(table: pd.DataFrame, labels: Sequence[str]) -> str:
    """`cat (3 images), dog (1 image)`."""
    sizes = table["label"].value_counts()
    return ", ".join(f"{label!r} ({sizes[label]} image{'s' if sizes[label] > 1 else ''})" for label in labels)
