"""What only stored features can tell, once they are there: suspect labels, near-duplicates that the perceptual hash
missed, and drift of what the network sees.

It runs beside the training of the head, which does not wait for it. The verdict does, for drift may be a reason to
stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tasks.errors import InvalidDataError
from tasks.records import Features, Review, Run, Snapshot
from tasks.storage.assignments import read_assignments, write_assignments
from tasks.storage.feature_store import load_rows
from tasks.storage.rows import Rows
from tasks.storage.snapshots import read_snapshot
from tasks.validate.changes import MMD_SAMPLE, champion_snapshot, champion_snapshot_id, embedding_p_value
from tasks.validate.docs import build_docs
from tasks.validate.duplicates import join_groups, near_in_features
from tasks.validate.learning_curve import DOUBLINGS, learning_curve
from tasks.validate.suite import Finding, load_suite
from tasks.validate.suspects import out_of_fold_logits, rank_suspects, to_probabilities
from tasks.validate.validation import failures_to_stop, judge_figures, warn, write_findings

LISTED_SUSPECTS = 100


def review_snapshot(run: Run, stored: Features) -> Review:
    """Ranks the labels of a snapshot by doubt, looks for copies, and measures drift, all from stored features.

    Writes `suspects.json` to the run's folder, the most doubtful first: a list of {sha256, path, uri, split, label,
    suggested, probability (of the given label), suggested_probability}; and adds its findings to `validation.json`.
    `learning_curve.json` says what more labels would bring. Labels stay as they are. Copies join one group in the
    assignments, which keeps them in one split from the next run on; of this run they are reported. The Data Docs are
    built last.

    Raises:
        InvalidDataError: the suite of changes says that drift of what the network sees stops a run, and it does.
    """
    snapshot = stored.snapshot
    table = read_snapshot(run.workspace, snapshot.id)
    with load_rows(run.workspace, stored.extractor.key, table["sha256"].tolist(), [0]) as features:
        targets = pd.Categorical(table["label"], categories=list(snapshot.labels)).codes.astype(np.int64)
        groups = pd.factorize(table["group"])[0]
        logits = out_of_fold_logits(features, targets, groups, len(snapshot.labels), DOUBLINGS)
        run.workspace.write_json(run.path("learning_curve.json"), learning_curve(logits, targets, snapshot.labels))
        suspects = find_suspects(table, to_probabilities(logits[-1], targets), targets, snapshot.labels)
        run.workspace.write_json(run.path("suspects.json"), suspects[:LISTED_SUSPECTS])
        findings = [_suspects_finding(suspects, len(table)), _join_by_features(run, snapshot, table, features)]
        findings += judge_figures(run, {"path": "the source", **_drift(run, table, features)}, "features")
    _add_findings(run, findings)
    build_docs(run, snapshot.catalogue)
    if reasons := failures_to_stop(findings):
        raise InvalidDataError(reasons)
    warn(findings)
    return Review(suspects=len(suspects), folder=run.folder)


def rules(run: Run, stored: Features) -> list[Any]:
    """What the review depends on beside the features."""
    config = run.config.validation
    return [run.name, config, load_suite(config.changes_suite), champion_snapshot_id(run), run.config.finetune.seed]


def find_suspects(
    table: pd.DataFrame, probabilities: np.ndarray, targets: np.ndarray, labels: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows whose label is probably wrong, the most doubtful first; see `review_snapshot` for their form.

    Args:
        table: columns sha256, path, uri, split, label.
        probabilities: float [N, C], of classifiers that did not see the image.
        targets: the given classes, int [N].
        labels: the classes' names, in index order.
    """
    order, suggested, suspect = rank_suspects(probabilities, targets)
    rows = order[suspect[order]]
    found = table.loc[rows, ["sha256", "path", "uri", "split", "label"]].assign(
        suggested=np.array(labels, object)[suggested[rows]],
        probability=probabilities[rows, targets[rows]].round(4).astype(float),
        suggested_probability=probabilities[rows, suggested[rows]].round(4).astype(float),
    )
    return found.to_dict("records")  # type: ignore[return-value]


def _suspects_finding(suspects: Sequence[dict[str, Any]], images: int) -> Finding:
    return Finding(
        expectation="label-suspects",
        column="label",
        severity="warn",
        success=not suspects,
        observed=f"{len(suspects)} of {images} images ({len(suspects) / max(images, 1):.1%})",
        unexpected_count=len(suspects),
        examples=[
            {"path": item["path"], "value": f"{item['label']}, suggested {item['suggested']}"}
            for item in list(suspects)[:5]
        ],
        note="images that a classifier trained without them sees as another class (confident learning)",
        allowed="none",
    )


def _join_by_features(run: Run, snapshot: Snapshot, table: pd.DataFrame, features: np.ndarray | Rows) -> Finding:
    """Joins the groups of this run's new images and of those that their features show to be copies of them."""
    assignments = read_assignments(run)
    new = table["sha256"].isin(assignments.loc[assignments["run_id"] == snapshot.catalogue.work, "sha256"]).to_numpy()
    pairs = near_in_features(features, new)
    before = table["group"].to_numpy(object)
    group = join_groups(table, table["group"], pairs.where(before[pairs.first] != before[pairs.second]))
    moved = table[(group != table["group"]).to_numpy()]
    if len(moved):
        joined = assignments["sha256"].map(dict(zip(table["sha256"], group, strict=True)))
        write_assignments(run, assignments.assign(group=joined.where(joined.notna(), assignments["group"])))
    return Finding(
        expectation="copies-by-features",
        column="group",
        severity="warn",
        success=moved.empty,
        observed=len(moved),
        unexpected_count=len(moved),
        examples=[
            {"path": path, "value": split} for path, split in zip(moved["path"][:5], moved["split"][:5], strict=True)
        ],
        note="images that are copies of others by features and pixels, and were in another group until now",
        allowed="none",
    )


def _drift(run: Run, table: pd.DataFrame, features: np.ndarray | Rows) -> dict[str, float | None]:
    """The two-sample test of the features of what the champion was trained on and of what is new since."""
    before = champion_snapshot(run)
    if before is None:
        return {"embedding_p_value": None}
    trained = table["sha256"].isin(before.loc[before["split"] == "train", "sha256"]).to_numpy()
    new = ~table["sha256"].isin(before["sha256"]).to_numpy()
    rng = np.random.default_rng(run.config.finetune.seed)
    drawn = (np.sort(rng.permutation(np.flatnonzero(side))[:MMD_SAMPLE]) for side in (trained, new))
    before_features, new_features = (features[rows] for rows in drawn)
    return {"embedding_p_value": embedding_p_value(before_features, new_features, run.config.finetune.seed)}


def _add_findings(run: Run, findings: Sequence[Finding]) -> None:
    """Adds to those of validation; findings of the same name are replaced, so a retry adds nothing twice."""
    path = run.path("validation.json")
    earlier = run.workspace.read_json(path) if run.workspace.exists(path) else []
    names = {finding.expectation for finding in findings}
    kept = [Finding(**item) for item in earlier if item["expectation"] not in names]
    write_findings(run, [*kept, *findings])
