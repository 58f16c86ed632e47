"""Metrics of what changed since the champion's training snapshot: classes, label mix and drift, as one row for a suite.

A metric is null where there is too little data for it, and its expectation then does not apply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from tasks.modality.kinds import Kind
from tasks.records import Run
from tasks.storage.artifacts import RECORD
from tasks.storage.repository import read_manifest, versions, was_in_service
from tasks.storage.snapshots import read_snapshot, snapshot_path
from tasks.validate.drift import draw_sample, property_drift

MIN_IMAGES_FOR_LABEL_MIX = 30
# A removed class counts as renamed where at least this share of its images now has one added label.
RENAMED_SHARE = 0.5


def champion_snapshot(run: Run, listing: str) -> pd.DataFrame | None:
    """The images that the champion was trained and evaluated on; None before there is one: see `champion_snapshot_id`.

    Classes that the configuration renames have their new name.
    """
    snapshot = champion_snapshot_id(run, listing)
    if snapshot is None or not run.workspace.exists(snapshot_path(snapshot)):
        return None
    before = read_snapshot(run.workspace, snapshot)
    return before.assign(label=before["label"].replace(run.config.validation.rename))


def champion_snapshot_id(run: Run, listing: str) -> str | None:
    """The snapshot that the champion was trained on; None before there is a champion.

    A version of the same listing whose run was interrupted after it published is passed over: its stages are those of
    the run that resumes it, which is compared with what the interrupted one was compared with.

    Args:
        listing: the digest of what the source lists.
    """
    for version in reversed(versions(run.workspace, run.name)):
        made = read_manifest(run.workspace, run.name, version)["lineage"]
        if was_in_service(run, version) or _listing(run, made) != listing:
            return made["snapshot"]
    return None


def _listing(run: Run, lineage: dict[str, Any]) -> str | None:
    """The digest of the listing that a model was made of; None where what says it is gone."""
    folder = lineage.get("artifacts", {}).get("validate")
    path = f"{folder}/{RECORD}"
    return run.workspace.read_json(path)["record"]["listing"] if folder and run.workspace.exists(path) else None


def describe_changes(before: pd.DataFrame, now: pd.DataFrame, kind: Kind) -> dict[str, Any]:
    """The metrics that `expectations/changes.json` checks; `x_note` names the items that `x` counts.

    Args:
        before: the champion's snapshot.
        now: the current catalogue.
        kind: of its items.
    """
    new = now[~now["sha256"].isin(before["sha256"])]
    known = now[["sha256", "label"]].merge(before[["sha256", "label"]], on="sha256", suffixes=("_now", "_before"))
    added = sorted(set(now["label"]) - set(before["label"]))
    removed = sorted(set(before["label"]) - set(now["label"]))
    renamed = _renamed(known, added, removed, before["label"].value_counts())
    moved = known[(known["label_now"] != known["label_before"]) & ~known["label_before"].isin(list(renamed))]
    return {
        "path": "the source",
        "images_before": len(before),
        "images_new": len(new),
        "growth": len(new) / max(len(before), 1),
        "share_gone": 1 - len(known) / max(len(before), 1),
        "classes_added": len(added),
        "classes_added_note": ", ".join(added) or None,
        "classes_removed": len(removed),
        "classes_removed_note": ", ".join(removed) or None,
        "classes_renamed": len(renamed),
        "classes_renamed_note": ", ".join(f'{old} = "{name}"' for old, name in renamed.items()) or None,
        "relabelled": len(moved),
        **_label_mix(before, new),
        **_property_drift(before, new, kind),
        "embedding_p_value": None,  # computed once features are stored: `tasks.validate.review`
    }


def _renamed(known: pd.DataFrame, added: Sequence[str], removed: Sequence[str], sizes: pd.Series) -> dict[str, str]:
    """New names of renamed classes, by the old name: most of their images now have one added label."""
    found = {}
    for old in removed:
        now = known.loc[(known["label_before"] == old) & known["label_now"].isin(added), "label_now"].value_counts()
        if len(now) and now.iloc[0] >= RENAMED_SHARE * sizes[old]:
            found[old] = str(now.index[0])
    return found


def _label_mix(before: pd.DataFrame, new: pd.DataFrame) -> dict[str, Any]:
    """The difference between the class shares of new and old images, over the champion's classes."""
    from scipy.stats import chi2_contingency

    counts = pd.DataFrame({"before": before["label"].value_counts()})
    counts["new"] = new["label"].value_counts().reindex(counts.index, fill_value=0)
    if len(counts) < 2 or counts["new"].sum() < MIN_IMAGES_FOR_LABEL_MIX:
        return {"label_mix_distance": None, "label_mix_p_value": None}
    shares = counts / counts.sum()
    gained = shares["new"] - shares["before"]
    most = str(gained.idxmax())
    return {
        "label_mix_distance": float(gained.abs().sum() / 2),
        "label_mix_distance_note": f"{most}: {shares['new'][most]:.0%}, before {shares['before'][most]:.0%}",
        "label_mix_p_value": float(chi2_contingency(counts.to_numpy())[1]),  # type: ignore[arg-type]
    }


def _property_drift(before: pd.DataFrame, new: pd.DataFrame, kind: Kind) -> dict[str, float | None]:
    """The distance of each property of the items within classes, and its p-value: see `tasks.validate.drift`."""
    sample = draw_sample(before["label"], new["label"])
    found: dict[str, float | None] = {}
    for name, values in kind.properties.items():
        drift = property_drift(values(before), values(new), sample) if sample else None
        found[f"{name}_drift"], found[f"{name}_drift_p_value"] = drift or (None, None)
    return found
