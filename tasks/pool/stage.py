"""Chooses what to label next: sees the pool, scores it, leaves out copies, and lays the batch out for people."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from tasks.display import line
from tasks.errors import SourceError, UsageError
from tasks.modality.kinds import KINDS, kind_of
from tasks.pool.batches import (
    POOL,
    POOL_SCHEMA,
    SUMMARY,
    batch_folders,
    handed_out,
    labelling_folder,
    no_batch,
    read_batch,
    write_batch,
)
from tasks.pool.cut import CutModel, cut_champion, for_model
from tasks.pool.embedding import see_pool
from tasks.pool.familiar import FITTED, fit_familiar
from tasks.pool.label_files import label_studio_interface, label_studio_tasks, label_table
from tasks.pool.neighbours import Known, are_copies, know, nearest_labelled
from tasks.pool.page import render_page
from tasks.pool.scoring import Candidates, find_candidates
from tasks.pool.selection import REASONS, Shares, choose, shares_of
from tasks.records import Batch, Pool, Run
from tasks.storage.assignments import read_assignments
from tasks.storage.snapshots import read_snapshot
from tasks.storage.tables import read_table, write_table

NAMED_FAULTS = 3  # at the terminal
SPARE = 0.5  # share that is drawn besides, because copies are left out


def batch_run(run: Run) -> Run:
    """The run under whose name batches of a model are chosen one at a time: two would hand out the same images. (No
    model can have this name, so a retrain may go on meanwhile.)"""
    return replace(run, name=f"{run.name}.next")


def labelling_run(run: Run) -> Run:
    """The run whose files lie in the folder of its batch."""
    return replace(run, artifact=f"{labelling_folder(run.name)}/{run.run_id}")


def see(run: Run) -> Pool:
    """Embeds what has no row yet of the run's source.

    Raises:
        UsageError: no such model is published.
        SourceError: the pool is missing or has no usable image, or the storage does not answer.
    """
    model = cut_champion(run.workspace, run.name)
    run = for_model(run, model)
    seen = see_pool(run, model)
    for path, reason in list(seen.faults.items())[:NAMED_FAULTS]:
        line(f"  left out  {path}: {reason}")
    if seen.table.empty:
        path, reason = next(iter(seen.faults.items()))
        raise SourceError(
            f"the pool {run.source!r} has no {kind_of(run.config).item} that can be used; the first, {path}: {reason}"
        )
    folder = labelling_folder(run.name)
    pool = Pool(
        version=int(model.version),
        images=seen.table["sha256"].nunique(),
        faults=len(seen.faults),
        embedded=seen.embedded,
        folder=folder,
    )
    run.workspace.write_json(f"{folder}/faults.json", seen.faults)
    write_table(run.workspace, f"{folder}/{POOL}", seen.table, POOL_SCHEMA)
    return pool


def choose_batch(run: Run, pool: Pool, count: int, again: bool = False) -> Batch:
    """Chooses up to `count` images of a pool, and writes the batch into its folder.

    Args:
        again: what was handed out before may be chosen, too.

    Raises:
        UsageError: the model is gone.
    """
    run = labelling_run(run)
    if run.folder in batch_folders(run.workspace, run.name):  # a retry after success
        return _record(run, pool, read_batch(run.workspace, run.folder))
    model = cut_champion(run.workspace, run.name)
    run = for_model(run, model)
    labelled = read_snapshot(run.workspace, model.snapshot, ["sha256", "uri", "label"]).drop_duplicates("sha256")
    out = no_batch() if again else handed_out(run.workspace, run.name)
    table = read_table(run.workspace, pool.table_path).drop_duplicates("sha256")
    settled = {*labelled["sha256"], *read_assignments(run)["sha256"], *out["sha256"]}
    table = table[~table["sha256"].isin(settled)].reset_index(drop=True)
    sample = labelled.sort_values("sha256").head(FITTED)  # digests are in no order
    known = know(run, model, sample, out)
    if not known.labelled.any():
        raise UsageError(f"none of the images that {run.name} was trained on can be read any more: retrain it first")
    settings = run.config.label
    wanted = shares_of(count, settings.unfamiliar_share, settings.random_share)
    rows = _chosen(run, model, table, known, wanted)
    _write(run, model, pool, rows)
    return _record(run, pool, rows)


def _chosen(run: Run, model: CutModel, table: pd.DataFrame, known: Known, wanted: Shares) -> pd.DataFrame:
    """The rows of a batch: see `tasks.pool.batches.SCHEMA`."""
    if table.empty:
        return no_batch()
    familiar, seed = fit_familiar(known.features[known.labelled]), run.config.label.seed
    found = find_candidates(run.workspace, model, table["sha256"].tolist(), familiar, wanted, seed)
    chosen = choose(found.scores, wanted, np.random.default_rng(seed), SPARE)
    rows, features = _described(model, table, found, chosen), found.features[[place for place, _ in chosen]]
    rows = rows[~are_copies(rows["uri"], features, known)]
    counts = dict(zip(REASONS, (wanted.unsure, wanted.unfamiliar, wanted.random), strict=True))
    rows = rows[rows.groupby("reason").cumcount() < rows["reason"].map(counts)]
    rows = rows.sort_values("reason", key=lambda reasons: reasons.map(REASONS.index), kind="stable")
    uris, labels = nearest_labelled(features[rows.index], known)
    near = pd.DataFrame({"near_uris": uris, "near_labels": labels}, index=rows.index)
    return rows.join(near).reset_index(drop=True)


def _described(
    model: CutModel, table: pd.DataFrame, candidates: Candidates, chosen: list[tuple[int, str]]
) -> pd.DataFrame:
    """The chosen images as rows of a batch, without what is near them."""
    places = np.array([place for place, _ in chosen], np.int64)
    probabilities = candidates.probabilities[places].reshape(len(places), -1)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
    labels, values = np.array(model.labels, object), np.take_along_axis(probabilities, order, axis=1)
    rows = table.iloc[candidates.images[places]].reset_index(drop=True)
    return rows.assign(
        reason=[reason for _, reason in chosen],
        label=labels[order[:, 0]],
        probability=values[:, 0],
        second_label=labels[order[:, 1]],
        second_probability=values[:, 1],
    )


def _write(run: Run, model: CutModel, pool: Pool, rows: pd.DataFrame) -> None:
    tasks = label_studio_tasks(rows, f"{run.name} {model.version}", model.task)
    faults = run.workspace.read_json(pool.faults_path)
    run.workspace.write_json(run.path("next.json"), tasks)
    run.workspace.write_bytes(run.path("label_studio.xml"), label_studio_interface(model.labels, model.task).encode())
    run.workspace.write_bytes(run.path("next.csv"), label_table(rows, model.task).to_csv(index=False).encode())
    run.workspace.write_bytes(run.path("next.html"), render_page(run, pool, rows, faults).encode())
    summary = {
        "version": pool.version,
        "started_at": run.started_at,
        "images": len(rows),
        "items": KINDS[model.task].items,
        "chosen": _counts(rows),
        "pool": {"source": run.source, "images": pool.images, "embedded": pool.embedded, "faults": pool.faults},
        "faults": [{"path": path, "reason": reason} for path, reason in faults.items()],
    }
    run.workspace.write_json(run.path(SUMMARY), summary)
    write_batch(run.workspace, run.folder, rows)  # last: from now on it is handed out


def _record(run: Run, pool: Pool, rows: pd.DataFrame) -> Batch:
    return Batch(reasons=_counts(rows), seen=pool.images, folder=run.folder)


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    return {reason: int((rows["reason"] == reason).sum()) for reason in REASONS}
