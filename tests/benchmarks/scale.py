"""How time and memory grow with the number of images, over synthetic rows: prints one JSON object.

    uv run python -m tests.benchmarks.scale            both, at 1,000,000 rows
    uv run python -m tests.benchmarks.scale --rows 50000 --only head --width 5312

`head`: rows of 1280 float16 (`--width`) are written to a store, then one epoch of the head is trained on them, in a
process of its own whose peak resident memory is what is asked about. `split`: the run's key, the split, the snapshot
and the difference from the earlier snapshot (a tenth of the images is new), in another process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasks.modality.kinds import KINDS
from tasks.records import Features, Snapshot
from tasks.storage.feature_store import append_rows
from tasks.storage.tables import catalogue_schema, write_table
from tests.runs import keep_snapshot, make_catalogue, make_extractor_record, make_run

WIDTH, CLASSES, PART_BYTES, KEY = 1280, 10, 40 << 20, "synthetic"
LABELS = tuple(f"class-{number}" for number in range(CLASSES))


def digests(first: int, count: int) -> list[str]:
    return [hashlib.sha256(number.to_bytes(8, "big")).hexdigest() for number in range(first, first + count)]


def synthetic_catalogue(count: int, first: int = 0) -> pd.DataFrame:
    """A catalogue of `count` images, sorted by digest; the label is decided by the digest."""
    sha256 = np.sort(np.array(digests(first, count), dtype=object))
    label = np.array(LABELS, object)[[int(digest[:8], 16) % CLASSES for digest in sha256]]
    filled = catalogue_schema("image").empty_table().to_pandas().reindex(range(count))
    for column in ("copies", "size_bytes", "width_px", "height_px"):
        filled[column] = 200
    for column in ("brightness", "contrast", "sharpness"):
        filled[column] = np.random.default_rng(first).random(count).astype(np.float32)
    path = [f"photos/{name}/{digest[:20]}.jpg" for name, digest in zip(label, sha256, strict=True)]
    uri = [f"/data/{file}" for file in path]
    return filled.assign(sha256=sha256, label=label, path=path, uri=uri, format="JPEG", mode="RGB")


def write_rows(folder: Path, rows: int, width: int = WIDTH) -> Snapshot:
    """A snapshot of `rows` images, one in a hundred for validation, and a store with a noisy row of each."""
    run = make_run(folder, "photos")
    table = synthetic_catalogue(rows).assign(group="")
    table["split"] = np.where(np.arange(rows) % 100 == 99, "validation", "train")
    rng = np.random.default_rng(0)
    targets = table["label"].map({label: place for place, label in enumerate(LABELS)}).to_numpy()
    centres = rng.random((CLASSES, width), np.float32)
    part_rows = PART_BYTES // (2 * width)
    for start in range(0, rows, part_rows):
        part = slice(start, start + part_rows)
        values = (rng.random((len(targets[part]), width), np.float32) + 0.2 * centres[targets[part]]).astype(np.float16)
        append_rows(run.workspace, KEY, table["sha256"][part].tolist(), [0] * len(values), values)
    return replace(keep_snapshot(run, table), labels=LABELS)


def measure_head(folder: Path, snapshot: Snapshot, epochs: int) -> dict[str, Any]:
    """The finetune stage over a store that is there."""
    from tasks.finetune.stage import finetune

    run = make_run(folder, "photos", config={"finetune": {"epochs": epochs}})
    started = time.perf_counter()
    extractor = make_extractor_record(key=KEY, backbone="synthetic")
    finetune(run, Features(snapshot=snapshot, extractor=extractor, views=0, embedded=0))
    history = run.workspace.read_json(run.path("history.json"))["epochs"]
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "epochs": epochs,
        "validation_accuracy": round(history[-1]["val_accuracy"], 4),
    }


def measure_split(folder: Path, rows: int) -> dict[str, float]:
    """Two snapshots of one model, the second with a tenth more images; the seconds are those of the second."""
    from flows.summary import run_key
    from tasks.split.assign import make_snapshot
    from tasks.storage.snapshots import read_snapshot
    from tasks.validate.changes import describe_changes

    workspace = make_run(folder, "photos").workspace
    grown = synthetic_catalogue(rows)
    before = grown.sample(rows * 10 // 11, random_state=0).sort_values("sha256", ignore_index=True)
    references = []
    for number, table in enumerate((before, grown)):
        of = make_run(folder, "photos", f"r{number}")
        references.append(make_catalogue(of, images=len(table), work=of.run_id))
        write_table(workspace, references[-1].table_path, table, catalogue_schema("image"))
    del grown, before
    first = make_snapshot(make_run(folder, "photos", "r0"), references[0])
    run, seconds, started = make_run(folder, "photos", "r1"), {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal started
        seconds[name], started = round(time.perf_counter() - started, 2), time.perf_counter()

    run_key(run, references[1])
    lap("run_key")
    second = make_snapshot(run, references[1])
    lap("snapshot_and_split")
    describe_changes(read_snapshot(workspace, first.id), read_snapshot(workspace, second.id), KINDS["image"])
    lap("diff")
    assert (first.images, second.new) == (rows * 10 // 11, rows - rows * 10 // 11)
    return {**seconds, "seconds": round(sum(seconds.values()), 2)}


def in_a_process(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What `work` gives in a fresh process, with that process's peak resident memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (work, arguments))


def _measured(work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> dict[str, Any]:
    found = work(*arguments)
    return {**found, "peak_rss_mb": peak_rss_mb()}


def peak_rss_mb() -> int:
    """Of this process alone, from Linux's own account: `getrusage` counts what its parent had when it was started."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=WIDTH, help="numbers in a row of features")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--only", choices=["head", "split"])
    parser.add_argument("--folder", type=Path, help="where the rows are written (2.6 GB a million of 1280, twice)")
    parsed = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="headstart-scale-", dir=parsed.folder))
    found: dict[str, Any] = {"rows": parsed.rows, "width": parsed.width}
    try:
        if parsed.only != "split":
            snapshot = write_rows(folder, parsed.rows, parsed.width)
            found["head"] = in_a_process(measure_head, folder, snapshot, parsed.epochs)
        if parsed.only != "head":
            found["split"] = in_a_process(measure_split, folder, parsed.rows)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
