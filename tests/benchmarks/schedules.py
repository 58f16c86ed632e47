"""What other settings of the training do to a head: seconds, and accuracy and loss over several seeds.

    KERAS_HOME=… uv run python -m tests.benchmarks.schedules PHOTOGRAPHS [--images 0 1000 300] [--seeds 6]
        [--arm "epochs=10 batch_size=128 learning_rate=0.002"]…

The defaults are the first arm; each `--arm` is one more, of keys of the section `finetune`. The images are embedded
once; each seed trains every arm on the same part of the training split (0: all of it). Loss: negative log-likelihood
after temperature scaling, on the validation and on the test split. A row for each arm, means and standard errors.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from tasks.config import Finetune, parse_config
from tasks.finetune.data import Split, load_split
from tasks.finetune.head import predict, train_head
from tasks.finetune.rehearsal import rehearse
from tasks.ingest.catalogue import build_catalogue
from tasks.records import Features
from tasks.split.assign import make_snapshot
from tests.benchmarks.extraction import prepare

COLUMNS = "| images | settings | seconds | validation | loss | test | loss | ± accuracy | ± loss |"


def measure(source: Path, folder: Path, arms: Sequence[str], images: Sequence[int], seeds: int) -> None:
    """Prints the table, a row as soon as it is known."""
    job = prepare(source, folder, {})
    job.embed()
    rehearse(Finetune())  # the first arm is not to pay for first uses
    snapshot = make_snapshot(job.run, build_catalogue(job.run))
    stored = Features(snapshot=snapshot, extractor=job.extractor, views=job.policy.views, embedded=0)
    key, classes = job.extractor.key, len(snapshot.labels)
    print(COLUMNS, "|" + " ---: |" * (COLUMNS.count("|") - 1), sep="\n")
    with (
        load_split(job.run, stored, "train", key) as train,
        load_split(job.run, stored, "validation", key) as validation,
        load_split(job.run, stored, "test", key) as test,
    ):
        for count in images:
            for arm in arms:
                config = settings(arm)
                found = [
                    one(drawn(train, count, seed), validation, test, classes, config.model_copy(update={"seed": seed}))
                    for seed in range(seeds)
                ]
                print(row(count or len(train.targets), arm, np.array(found)), flush=True)


def settings(arm: str) -> Finetune:
    """The section `finetune` with keys as `epochs=10 batch_size=128`."""
    return parse_config({"finetune": dict(pair.split("=", 1) for pair in arm.split())}).finetune


def drawn(train: Split, count: int, seed: int) -> Split:
    """A random part of the training rows; all of them where `count` is 0."""
    if not count:
        return train
    chosen = np.sort(np.random.default_rng(seed).permutation(len(train.targets))[:count])
    return replace(train, features=np.asarray(train.features[chosen]), targets=train.targets[chosen])


def one(train: Split, validation: Split, test: Split, classes: int, config: Finetune) -> list[float]:
    """Seconds; accuracy and loss on validation; accuracy and loss on test."""
    started = time.perf_counter()
    head = train_head(train, validation, classes, config)
    found = [time.perf_counter() - started]
    for split in (validation, test):
        logits = predict(head.model, split)
        likely = log_softmax(logits / head.temperature, axis=1)[np.arange(len(logits)), split.targets]
        found += [float((logits.argmax(axis=1) == split.targets).mean()), float(-likely.mean())]
    return found


def row(images: int, arm: str, found: np.ndarray) -> str:
    """One of the table, from the results [S, 5] of its seeds."""
    seconds, *rest = found.mean(axis=0)
    errors = found.std(axis=0) / np.sqrt(len(found))
    cells = [f"{images:,}", arm or "defaults", f"{seconds:.2f}", *(f"{value:.4f}" for value in rest)]
    cells += [f"{errors[[1, 3]].mean():.4f}", f"{errors[[2, 4]].mean():.4f}"]
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--arm", action="append", default=[])
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="headstart-schedules-") as folder:
        measure(given.photographs.resolve(), Path(folder), ["", *given.arm], given.images, given.seeds)


if __name__ == "__main__":
    main(sys.argv[1:])
