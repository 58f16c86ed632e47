"""What to label next at scale: the pass over a large pool of images, and the choice among a million stored rows.

    uv run python -m tests.benchmarks.labelling pass --workspace W --name N --images 100000
    uv run python -m tests.benchmarks.labelling choose --workspace W --name N --images 1000000

W is a workspace in which N is published, of which nothing is changed. The images are small JPEGs made by a formula; the
rows are the labelled ones with noise. Prints one JSON object: seconds, images a second, and the peak of memory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from tasks.config import parse_config
from tasks.pool.batches import POOL, POOL_SCHEMA, labelling_folder
from tasks.pool.cut import cut_champion
from tasks.pool.stage import choose_batch, see
from tasks.records import Pool
from tasks.runs import new_run
from tasks.storage.feature_store import append_rows, load_features
from tasks.storage.snapshots import read_snapshot
from tasks.storage.tables import write_table
from tasks.workspace import Workspace
from tests.photos import photo

COUNT = 200
BLOCK = 10_000
KEPT = ("models", "snapshots", "features", "artifacts")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("pass", "choose"))
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--size", type=int, nargs=2, default=(160, 120), metavar=("W", "H"), help="pixels")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "workspace"
        for name in KEPT:
            shutil.copytree(given.workspace / name, place / name)
        measure = _pass if given.what == "pass" else _choose
        print(json.dumps(measure(Workspace(str(place)), given.name, given.images, tuple(given.size))))


def _pass(workspace: Workspace, name: str, images: int, size: tuple[int, int]) -> dict[str, float]:
    """Reads and embeds a folder of images, chooses among them, and does both again."""
    with tempfile.TemporaryDirectory() as folder:
        parts = [(folder, start, min(images, start + 1000), size) for start in range(0, images, 1000)]
        with ProcessPoolExecutor() as pool:
            list(pool.map(_draw, parts))
        found = {"images": float(images)}
        for turn in ("first", "second"):
            run = new_run(folder, name, workspace.url, parse_config({}))
            started, processor = time.perf_counter(), time.process_time()
            seen = see(run)
            found[f"{turn}_processor_s"] = round(time.process_time() - processor, 1)
            found[f"{turn}_pass_s"] = round(time.perf_counter() - started, 1)
            choose_batch(run, seen, COUNT)
            found[f"{turn}_all_s"] = round(time.perf_counter() - started, 1)
    return {**found, "images_per_s": round(images / found["first_pass_s"], 1), "peak_gb": _peak_gb()}


def _draw(part: tuple[str, int, int, tuple[int, int]]) -> None:
    folder, start, stop, size = part
    below = Path(folder) / f"{start:08d}"
    below.mkdir()
    for number in range(start, stop):
        photo(number, size=size, hue=number % 6).save(below / f"{number}.jpg")


def _choose(workspace: Workspace, name: str, images: int, size: tuple[int, int]) -> dict[str, float]:
    """Chooses among stored rows, which another process makes, so that its memory does not count."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        pool = other.submit(_store, workspace, name, images).result()
    started, processor = time.perf_counter(), time.process_time()
    batch = choose_batch(new_run("rows", name, workspace.url, parse_config({})), pool, COUNT)
    seconds = {"choose_s": time.perf_counter() - started, "processor_s": time.process_time() - processor}
    rounded = {key: round(value, 1) for key, value in seconds.items()}
    return {"images": images, "chosen": batch.images, **rounded, "peak_gb": _peak_gb()}


def _store(workspace: Workspace, name: str, images: int) -> Pool:
    """Rows of images that are not there: those of labelled images with noise."""
    model = cut_champion(workspace, name)
    labelled = load_features(workspace, model.key, read_snapshot(workspace, model.snapshot)["sha256"].tolist(), 0)
    rng = np.random.default_rng(0)
    sha256s = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(images)]
    for start in range(0, images, BLOCK):
        count = min(BLOCK, images - start)
        rows = labelled[rng.integers(0, len(labelled), count)]
        rows = rows * (1 + 0.5 * rng.standard_normal(rows.shape, np.float32))
        append_rows(workspace, model.key, sha256s[start : start + count], [0] * count, rows.astype(np.float16))
    folder = labelling_folder(name)
    paths = [f"{number:08d}.jpg" for number in range(images)]
    table = pd.DataFrame({"path": paths, "uri": paths, "sha256": sha256s})
    write_table(workspace, f"{folder}/{POOL}", table, POOL_SCHEMA)
    workspace.write_json(f"{folder}/faults.json", {})
    return Pool(version=int(model.version), images=images, faults=0, embedded=0, folder=folder)


def _peak_gb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)


if __name__ == "__main__":
    main(sys.argv[1:])
