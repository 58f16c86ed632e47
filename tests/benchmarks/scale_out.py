"""Extraction by Dask workers against threads on the same cores, with the workspace on an object store of this machine.

    uv run python -m tests.benchmarks.scale_out PHOTOGRAPHS [--images 1500] [--repeats 3]

Two Dask workers of one thread each, on loopback, against the run's own two threads; in turn, so that a slower minute
hits both. The rows have to be the same, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from flows.server import EphemeralServer

WORKERS = 2
SHARDS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backbone", default="embedded")
    given = parser.parse_args()
    server = EphemeralServer()  # before Prefect is imported
    os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
    server.wait()
    from distributed import LocalCluster
    from fsspec.config import conf as fsspec_settings

    from tests.object_store import object_store

    try:
        with tempfile.TemporaryDirectory() as folder, object_store(fsspec_settings) as store:
            os.environ.update(store.environ)  # the workers' way to the store
            source = some_images(given.photographs, Path(folder) / "photos", given.images)
            workers: Any = LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=":0")
            with workers as cluster:
                print(json.dumps(measure(source, store.workspace, given, cluster.scheduler_address)))
    finally:
        server.stop()


def measure(source: Path, workspace: str, given: argparse.Namespace, address: str) -> dict[str, Any]:
    from prefect import flow

    from tasks.config import parse_config
    from tasks.extract.task import extract_features, make_extractor
    from tasks.ingest.catalogue import build_catalogue
    from tasks.modality.images.augmentation import policy_of
    from tasks.runs import new_run
    from tasks.split.assign import make_snapshot
    from tasks.storage.feature_store import load_features
    from tasks.storage.tables import read_table

    def configured(scale: dict[str, Any]) -> Any:
        extract = {"shard_images": -(-given.images // SHARDS), "workers": WORKERS}
        return parse_config({"backbone": {"name": given.backbone}, "extract": extract, "scale": scale})

    scales = {"threads": {"runner": "threads"}, "dask": {"runner": "dask", "dask_address": address}}
    run = new_run(str(source), "scale", workspace, configured({}))
    snapshot, policy = make_snapshot(run, build_catalogue(run)), policy_of(run.config)
    sha256s = read_table(run.workspace, snapshot.table_path, ["sha256"])["sha256"].tolist()
    seconds: dict[str, list[float]] = {name: [] for name in scales}
    rows: dict[str, Any] = {}

    @flow(name="extraction")
    def extraction(name: str) -> None:
        run.workspace.remove("features")
        started = time.perf_counter()
        extractor = make_extractor(run, snapshot, policy)
        features = extract_features(replace(run, config=configured(scales[name])), snapshot, extractor, policy)
        seconds[name].append(time.perf_counter() - started)
        rows[name] = load_features(run.workspace, features.extractor.key, sha256s, 0)

    for turn in range(given.repeats + 1):
        for name in scales:
            extraction(name)
            print(f"{name}: {seconds[name][-1]:.2f} s{'' if turn else ' (not counted)'}", file=sys.stderr)
    rates = {name: round(len(sha256s) / median(each[1:]), 1) for name, each in seconds.items()}
    if not (rows["threads"] == rows["dask"]).all():
        raise SystemExit("the rows differ")
    ratios = [threads / dask for threads, dask in zip(seconds["threads"][1:], seconds["dask"][1:], strict=True)]
    return {"images": len(sha256s), **rates, "dask_over_threads": round(median(ratios), 3), "rows": "equal"}


def some_images(photographs: Path, folder: Path, count: int) -> Path:
    """Copies of `count` images, spread over the classes, as far as there are so many."""
    found = sorted(path for path in photographs.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for path in found[:: max(1, len(found) // count)][:count]:
        copy = folder / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return folder


if __name__ == "__main__":
    main()
