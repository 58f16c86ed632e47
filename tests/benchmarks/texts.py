"""Texts: the seconds of a first retrain, of one with 1 % new and of one with nothing new; and the pass beside bare ONNX
Runtime on the same batches.

    uv run python -m tests.benchmarks.texts TABLE.csv --backbone FILE.onnx

TABLE.csv has the columns text and label (or category); a hundredth of its rows, drawn at random, arrives last.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.config import parse_config
from tasks.extract.engine import choose_engine
from tasks.extract.export import ensure_exported
from tasks.extract.plan import embed_shard, missing_tasks
from tasks.ingest.catalogue import build_catalogue
from tasks.ingest.sources import with_task
from tasks.modality.images.augmentation import policy_of
from tasks.modality.items import read_bytes
from tasks.modality.texts.tokens import Tokens, feed_of
from tasks.networks.extractor import extractor_of
from tasks.networks.onnx_session import available_cores, open_session
from tasks.networks.text_batches import batches
from tasks.runs import new_run
from tasks.split.assign import make_snapshot
from tests.benchmarks.processes import environment, run

NEW_SHARE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--backbone", default="embedded_text")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for row in [
            *retrains(given.table, given.backbone, Path(folder)),
            throughput(given.table, given.backbone, folder),
        ]:
            print(json.dumps(row))


def retrains(table: Path, backbone: str, folder: Path) -> list[dict[str, Any]]:
    """A row for each retrain: seconds of the process and of its stages, accuracy, texts embedded."""
    header, *lines = table.read_text(encoding="utf-8").splitlines()  # rows of one line each
    random.Random(0).shuffle(lines)
    source = folder / "growing.csv"
    command = [sys.executable, "-m", "flows.cli", "retrain", str(source), "--name", "texts", "--backbone", backbone]
    rows = []
    for what, count in (
        ("first", round(len(lines) * (1 - NEW_SHARE))),
        ("1 % new", len(lines)),
        ("unchanged", len(lines)),
    ):
        source.write_text("\n".join([header, *lines[:count]]) + "\n", encoding="utf-8")
        done = run([*command, "--workspace", str(folder / "w"), "--json"], environment(folder / "prefect"), (0, 3))
        stages = {stage: round(seconds, 1) for stage, seconds in done.printed["timings_s"].items() if seconds >= 0.1}
        accuracy = {split: round(each["accuracy"], 4) for split, each in done.printed["metrics"].items()}
        embedded = done.printed["images"]["embedded"]
        rows.append({"run": what, "s": round(done.seconds, 1), "embedded": embedded, **accuracy, "stages_s": stages})
    return rows


def throughput(table: Path, backbone: str, folder: str) -> dict[str, Any]:
    """Texts a second: the flow's own pass from addresses to stored rows, and the graph alone on the same batches."""
    config = parse_config({"backbone": {"name": backbone}})
    job = with_task(new_run(str(table), "pass", f"{folder}/pass", config))
    policy = policy_of(job.config)
    snapshot = make_snapshot(job, build_catalogue(job))
    extractor = ensure_exported(job, extractor_of(job, policy))
    engine, tasks = choose_engine(job, extractor), missing_tasks(job, snapshot, extractor, policy)
    started = time.perf_counter()
    embed_shard(job, extractor, policy, engine, tasks)
    whole_s = time.perf_counter() - started
    tokens = Tokens(job.workspace.read_bytes(extractor.tokenizer_path), extractor.max_tokens)
    read = [tokens.read(read_bytes(task.uri)) for task in tasks]
    feeds = [feed_of([read[place] for place in places]) for places in batches([len(each) for each in read])]
    session = open_session(job.workspace.local_file(extractor.onnx_path))
    started = time.perf_counter()
    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(lambda feed: session.run(["features"], feed), feeds))
    bare_s = time.perf_counter() - started
    ours, bare = len(tasks) / whole_s, len(tasks) / bare_s
    return {"pass": round(ours), "bare": round(bare), "ratio": round(ours / bare, 3), "unit": "texts/s"}


if __name__ == "__main__":
    main()
