"""What validation finds in a dirty copy of real photographs, what is lost by it, and how fast it is.

    uv run python -m tests.benchmarks.validation PHOTOGRAPHS [--seed 7] [--weights WEIGHTS.h5] [--workspace FOLDER]

PHOTOGRAPHS is a folder of `train/` and `validation/`, a subfolder a class. `tests/dirty.py` copies it by the seed and
plants 2 % corrupt files, 2 % exact copies and 3 % near-duplicates in the other split, 5 % flipped labels, and odd files
that have to be accepted. Prints one JSON object; the workspace, a temporary folder by default, keeps the features, so
that a second run with the same one costs a minute less.

Accuracy is that of heads trained on the clean original; on what validation left of the dirty copy; on that without the
suspects of its training split; and on that with the suspects looked through by somebody who gives the wrong ones their
true label. All are judged on the same test images, by their true labels, over several seeds.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasks.config import Finetune, parse_config
from tasks.extract.engine import choose_engine
from tasks.extract.export import ensure_exported
from tasks.extract.plan import cut, embed_shard, missing_tasks
from tasks.finetune.data import Split
from tasks.finetune.head import train_head
from tasks.ingest.catalogue import build_catalogue
from tasks.modality.images.augmentation import policy_of
from tasks.networks.extractor import extractor_of
from tasks.records import Features, Run, Snapshot
from tasks.runs import new_run
from tasks.split.assign import make_snapshot
from tasks.storage.feature_store import load_features
from tasks.storage.quarantine import run_quarantine
from tasks.storage.tables import catalogue_schema, read_table, write_table
from tasks.validate import suite
from tasks.validate.label_issues import FOLDS, find_label_errors, out_of_fold_logits
from tasks.validate.review import review_snapshot
from tasks.validate.validation import validate
from tests.dirty import Planted, make_dirty
from tests.runs import make_catalogue

ROWS = 100_000
TRAINING_SEEDS = (17, 18, 19)


@dataclass(frozen=True)
class Data:
    """One source, as far as its features."""

    run: Run
    snapshot: Snapshot
    features: Features
    table: pd.DataFrame
    quarantined: dict[str, str]  # reason by path
    seconds: dict[str, float]


def prepare(source: Path, name: str, workspace: str, config: dict[str, Any]) -> Data:
    """From a folder to stored features, through the stages' own functions; seconds of those of validation."""
    run = new_run(str(source), name, workspace, parse_config(config))
    seconds: dict[str, float] = {}
    started = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal started
        seconds[stage] = round(time.perf_counter() - started, 2)
        started = time.perf_counter()

    catalogue = build_catalogue(run)
    lap("hashing, header checks and inspection")
    valid = validate(run, catalogue)
    lap("suites and near-duplicates")
    snapshot = make_snapshot(run, valid)
    policy = policy_of(run.config)
    extractor = ensure_exported(run, extractor_of(run, policy))
    if todo := missing_tasks(run, snapshot, extractor, policy):
        engine = choose_engine(run, extractor)
        for shard in cut(todo, run.config.extract.shard_images):
            embed_shard(run, extractor, policy, engine, shard)
    table = read_table(run.workspace, snapshot.table_path)
    features = Features(snapshot=snapshot, extractor=extractor, views=policy.views, embedded=len(todo))
    return Data(run, snapshot, features, table, {entry.path: entry.reason for entry in run_quarantine(run)}, seconds)


def found(planted: Planted, data: Data) -> dict[str, Any]:
    """Of each kind of fault, how much was planted and how much was found."""
    by_path = data.table.set_index("path")
    group, split, copies = by_path["group"], by_path["split"], by_path["copies"]
    near = [pair[:2] for pair in planted.near]
    joined = [group[a] == group[b] for a, b in near if a in group and b in group]
    conflicts = sum(a in data.quarantined and b in data.quarantined for a, b in near)
    shared = set(group.index[group.map(group.value_counts()) > 1])
    false = shared - {path for pair in near for path in pair}
    planted_splits = [{split.get(a), split.get(b)} for a, b in near]
    return {
        "images": len(data.table),
        "corrupt": {"planted": len(planted.corrupt), "found": len(set(planted.corrupt) & set(data.quarantined))},
        "exact_copies": {
            "planted": len(planted.exact),
            "found": sum((a in copies) + (b in copies) == 1 for a, b in planted.exact),
        },
        "near_duplicates": {
            "planted": len(near),
            "found": int(sum(joined)) + conflicts,
            "false_positives": len(false),
            "false_positive_share": round(len(false) / len(by_path), 5),
        },
        "leaks_from_train_into_test": sum({"train", "test"} <= splits for splits in planted_splits)
        + int((by_path.groupby("group")["split"].nunique() > 1).sum()),
        "odd_files": {"planted": len(planted.odd), "accepted": len(set(planted.odd) & set(by_path.index))},
        "litter_passed_over": not set(planted.litter) & (set(by_path.index) | set(data.quarantined)),
    }


def suspects(planted: Planted, data: Data) -> tuple[dict[str, Any], np.ndarray]:
    """How many of the flipped labels are among the most doubtful, and which rows are suspect, bool [N]."""
    features = load_features(data.run.workspace, data.features.extractor.key, data.table["sha256"].tolist(), 0)
    targets = _targets(data.table["label"], data.snapshot.labels)
    groups = pd.factorize(data.table["group"])[0]
    [logits] = out_of_fold_logits(features, targets, groups, len(data.snapshot.labels), [FOLDS - 1])
    errors = find_label_errors(logits, targets)
    order, suspect = np.argsort(-errors.wrong), errors.wrong > 0.5
    true = data.table["path"].map(planted.flipped)
    wrong = true.notna().to_numpy()
    first = np.isin(np.arange(len(order)), order[: len(order) // 10])
    named = np.array(data.snapshot.labels, object)[errors.suggested] == true
    shares = {
        "flipped": int(wrong.sum()),
        "in_top_10_percent": round(float(first[wrong].mean()), 4),
        "suspects": int(suspect.sum()),
        "suspects_that_were_flipped": int((suspect & wrong).sum()),
        "suspects_expected_to_be_wrong": round(float(errors.wrong[suspect].sum()), 1),
        "estimated_share_of_wrong_labels": round(errors.rate, 4),
        "right_label_suggested": round(float(named[wrong].mean()), 4),
    }
    return shares, suspect


def accuracies(clean: Data, dirty: Data, planted: Planted, suspect: np.ndarray) -> dict[str, Any]:
    """Test accuracy by true labels, the mean over the seeds, of heads trained on each of the four."""
    tested = clean.table[clean.table["split"] == "test"]
    seen = dirty.table.loc[dirty.table["split"] != "test", "sha256"]
    tested = tested[~tested["sha256"].isin(seen)]
    mended = dirty.table["path"].map(planted.flipped).where(suspect)
    tables = {
        "clean original": clean.table,
        "dirty, validated": dirty.table,
        "dirty, validated, suspects left out": dirty.table[~(suspect & (dirty.table["split"] == "train").to_numpy())],
        "dirty, validated, suspects mended": dirty.table.assign(label=mended.fillna(dirty.table["label"])),
    }
    scored: dict[str, Any] = {"test_images": len(tested), "seeds": len(TRAINING_SEEDS)}
    for name, table in tables.items():
        scores = [trained_accuracy(clean, table, tested, Finetune(seed=seed)) for seed in TRAINING_SEEDS]
        scored[name] = {"mean": round(float(np.mean(scores)), 4), "each": [round(score, 4) for score in scores]}
        print(name, scored[name], file=sys.stderr, flush=True)
    return scored


def trained_accuracy(data: Data, table: pd.DataFrame, tested: pd.DataFrame, config: Finetune) -> float:
    train = split_of(data, table[table["split"] == "train"], data.features.views)
    validation = split_of(data, table[table["split"] == "validation"], 0)
    model = train_head(train, validation, len(data.snapshot.labels), config).model
    judged = split_of(data, tested, 0)
    said = model.predict(judged.features.astype(np.float32), verbose=0).argmax(axis=1)  # type: ignore[union-attr, arg-type]
    return float((said == judged.targets).mean())


def split_of(data: Data, table: pd.DataFrame, views: int) -> Split:
    sha256s = table["sha256"].tolist()
    stored = [
        load_features(data.run.workspace, data.features.extractor.key, sha256s, view) for view in range(views + 1)
    ]
    targets = _targets(table["label"], data.snapshot.labels)
    return Split(features=np.concatenate(stored), targets=np.tile(targets, views + 1))


def _targets(labels: pd.Series, names: Sequence[str]) -> np.ndarray:
    return pd.Categorical(labels, categories=list(names)).codes.astype(np.int64)


def seconds_of_many_rows(workspace: str, like: pd.DataFrame, rows: int) -> float:
    """How long validation takes of a catalogue of so many rows, each new: the suites and the search for copies."""
    rng = np.random.default_rng(0)
    drawn = like.iloc[rng.integers(0, len(like), rows)].reset_index(drop=True)
    halves = rng.normal(0, 12, (rows, 1, 64)) + rng.normal(0, 3, (rows, 2, 64))  # alike, and unlike any other image
    halves[:, :, 0] = 0
    hashes = halves.clip(-127, 127).astype(np.int8)
    digests = sorted(rng.bytes(32).hex() for _ in range(rows))
    table = drawn.assign(sha256=digests, phash=[row.tobytes() for row in hashes], group=None, split=None)
    run = new_run("many", "many", workspace, parse_config({}))
    write_table(run.workspace, run.path("catalogue.parquet"), table, catalogue_schema("image"))
    started = time.perf_counter()
    validate(run, make_catalogue(run, images=rows))
    return time.perf_counter() - started


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photographs", type=Path, help="folder with train/ and validation/")
    parser.add_argument("--seed", type=int, default=7, help="of what is planted where")
    parser.add_argument("--weights", default="default", help="of MobileNetV2; ImageNet's by default")
    parser.add_argument("--workspace", help="kept; a temporary folder by default")
    given = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    suite.preload()  # 3 s of import are no part of any figure
    config = {"backbone": {"weights": given.weights}}
    with tempfile.TemporaryDirectory() as aside:
        workspace = given.workspace or f"{aside}/workspace"
        planted = make_dirty(given.photographs, Path(aside) / "dirty", seed=given.seed)
        dirty = prepare(Path(aside) / "dirty", f"dirty-{given.seed}", workspace, config)
        clean = prepare(given.photographs, "clean", workspace, config)
        started = time.perf_counter()
        review_snapshot(dirty.run, dirty.features)
        review_s = time.perf_counter() - started
        ranked, suspect = suspects(planted, dirty)
        catalogue = read_table(dirty.run.workspace, dirty.run.path("catalogue.parquet"))
        many_s = seconds_of_many_rows(workspace, catalogue, ROWS)
        answer = {
            "seed": given.seed,
            "found": found(planted, dirty),
            "label_suspects": ranked,
            "test_accuracy": accuracies(clean, dirty, planted, suspect),
            "seconds": {
                **dirty.seconds,
                "review": round(review_s, 2),
                f"validation of {ROWS} rows": round(many_s, 2),
            },
            "rows_a_second": round(ROWS / many_s),
            "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        }
    print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
