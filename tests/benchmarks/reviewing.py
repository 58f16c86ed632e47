"""How many wrong labels a person mends who follows the review, and what that does for the model.

    KERAS_HOME=… uv run python -m tests.benchmarks.reviewing PHOTOGRAPHS [--cards 200] [--rounds 1] [--seed 7]

PHOTOGRAPHS is a folder of `train/` and `validation/`, a subfolder a class. 5 % of the labels of a copy of `train/` are
changed, drawn by the seed. The person knows every true label, goes through the first cards in the page's order and
decides by the page's own code; then the images are ingested and reviewed again. Prints one JSON object.

Accuracy is the mean over three heads, trained with the changed labels, with the mended ones and with the true ones, on
`validation/`, whose labels are all true.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deploy.review.session import Session, open_session
from tasks.config import Finetune
from tasks.runs import write_summary
from tasks.validate import suite
from tasks.validate.review import review_snapshot
from tests.benchmarks.validation import Data, prepare, trained_accuracy

WRONG = 0.05
TRAINING_SEEDS = (17, 18, 19)
NAME = "reviewed"
WHEN = "2026-01-01T00:00:00+00:00"


def copy_with_wrong_labels(source: Path, target: Path, seed: int) -> dict[str, str]:
    """Copies the photographs, moves a share of `train/` to wrong classes, and gives these their true label by path."""
    rng = np.random.default_rng(seed)
    for split in ("train", "validation"):
        shutil.copytree(source / split, target / split)
    files = sorted(path.relative_to(target).as_posix() for path in (target / "train").rglob("*") if path.is_file())
    labels = sorted({path.split("/")[1] for path in files})
    true = {}
    for place in rng.permutation(len(files))[: round(WRONG * len(files))]:
        split, label, name = files[place].split("/")
        wrong = f"{split}/{rng.choice([other for other in labels if other != label])}/{name}"
        (target / files[place]).rename(target / wrong)
        true[wrong] = label
    return true


def reviewed(data: Data) -> Session:
    """The review of a run, as the page opens it."""
    run = data.run
    review_snapshot(run, data.features)
    summary = {"run_id": run.run_id, "source": run.source, "snapshot": data.snapshot.id}
    write_summary(run, {**summary, "artifacts": {"review": run.folder}, "config": run.config.model_dump(by_alias=True)})
    return open_session(run.workspace, run.name)


def decide_all(session: Session, true: Mapping[str, str], cards: int) -> dict[str, int]:
    """Goes through the first cards as a person who knows the true labels."""
    counts = {"cards": 0, "relabelled": 0, "suggested_rightly": 0}
    for card in session.state()["cards"][:cards]:
        label = true.get(card["path"], card["label"])
        assert session.decide(card["sha256"], label, by="somebody", when=WHEN, seen=card["seen"])
        counts["cards"] += 1
        counts["relabelled"] += label != card["label"]
        counts["suggested_rightly"] += label != card["label"] and label == card["suggested"]
    return counts


def accuracy(data: Data, labels: pd.Series) -> float:
    """On validation, of heads trained with these labels."""
    tested = data.table[data.table["split"] == "validation"]
    table = data.table.assign(label=labels)
    scores = [trained_accuracy(data, table, tested, Finetune(seed=seed)) for seed in TRAINING_SEEDS]
    return round(float(np.mean(scores)), 4)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photographs", type=Path, help="folder with train/ and validation/")
    parser.add_argument("--cards", type=int, default=200, help="that the person looks at, in each round")
    parser.add_argument("--rounds", type=int, default=1, help="of looking through, with a retrain between two")
    parser.add_argument("--seed", type=int, default=7, help="of what is changed")
    parser.add_argument("--backbone", default="mobilenet_v2")
    given = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    suite.preload()
    config: dict[str, Any] = {"backbone": {"name": given.backbone}}
    with tempfile.TemporaryDirectory() as aside:
        photographs, workspace = Path(aside) / "photographs", f"{aside}/workspace"
        true = copy_with_wrong_labels(given.photographs, photographs, given.seed)
        first = data = prepare(photographs, NAME, workspace, config)
        rounds = []
        for _ in range(given.rounds):
            counts = decide_all(reviewed(data), true, given.cards)
            data = prepare(photographs, NAME, workspace, config)
            mended = data.table["path"].map(true) == data.table["label"]
            share = round(float(mended.sum()) / len(true), 4)
            rounds.append({**counts, "mended_so_far": int(mended.sum()), "share": share})
            print(rounds[-1], file=sys.stderr, flush=True)
        by_path = data.table.set_index("path")["label"]
        right = first.table["path"].map(true).fillna(first.table["label"])
        answer = {
            "wrong_labels": len(true),
            "rounds": rounds,
            "validation_accuracy": {
                "with wrong labels": accuracy(first, first.table["label"]),
                "mended": accuracy(first, first.table["path"].map(by_path).fillna(right)),
                "with true labels": accuracy(first, right),
            },
        }
    print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
