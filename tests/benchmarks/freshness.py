"""`headstart up` as its user meets it: how soon new photographs are a new model, and whether a burst loses any.

    uv run python -m tests.benchmarks.freshness arrival [--times N] PHOTOGRAPHS [FLAGS OF UP]
    uv run python -m tests.benchmarks.freshness burst

`arrival` takes a folder of class folders (or of splits with those), makes a first model of 3,000 of its photographs,
then copies 40 more, as often as `--times` says, each time half a minute after the last run; it prints, for each time,
the seconds from the last file's landing to the run's start beyond the quiet period, from there to its end, those of
processor time of all processes meanwhile, the machine's load (processes that want a core), what `up` logged, and of
each phase (see `tests.benchmarks.phases`) the seconds on the clock and of a core; the first begins with the landing.
`burst` lets 50 batches of made-up photographs arrive at random within 10 minutes, and exits with 1 where an image was
lost or embedded twice, two runs were there at once, or the last snapshot is not the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tasks.storage.repository import versions
from tasks.workspace import Workspace
from tests import photos
from tests.arrivals import digests, embedded, last_snapshot, overlaps, write_slowly
from tests.benchmarks.phases import phases, stages_since
from tests.benchmarks.processes import sampled
from tests.up import Up, moment, running

NAME = "fresh"
KNOWN, NEW = 3000, 40
REST_S = 30  # before each delivery: the process of the next run is loaded when a run has ended
BATCHES, LONGEST_BATCH, MINUTES = 50, 8, 10.0
TIMEOUT_S = 900


def arrival(folder: Path, photographs: Path, times: int, settle_s: float, flags: list[str]) -> dict[str, Any]:
    """Copies 40 photographs beside 3,000 known ones, `times` times. Times in seconds."""
    split = (photographs / "train").is_dir()
    files = sorted(photographs.glob("*/*/*" if split else "*/*"))
    random.Random(1).shuffle(files)
    if len(files) < KNOWN + NEW * times:
        raise SystemExit(
            f"{photographs} holds {len(files)} photographs in class folders; {KNOWN + NEW * times} are needed"
        )
    source, rows = folder / "photos", []
    _copy(files[:KNOWN], source)
    with running(folder, source, "--name", NAME, "--quiet", settle_s, *flags) as up:
        first = _ended(up, 0)
        for time_number in range(times):
            start = KNOWN + NEW * time_number
            time.sleep(REST_S)
            spent_s, said = _processor_s(up), len(up.log.read_text())
            _copy(files[start : start + NEW], source)
            landed = time.time()
            with sampled(up.process.pid) as timeline:
                run = _ended(up, time_number + 1)
            ended, stages = moment(run["end_time"]), stages_since(folder / "prefect", landed)
            rows.append(
                {
                    "start_beyond_quiet": round(moment(run["start_time"]) - landed - settle_s, 1),
                    "picked_up_beyond_quiet": round(_state_time(up, run, "PENDING") - landed - settle_s, 1),
                    "run": round(moment(run["end_time"]) - moment(run["start_time"]), 1),
                    "processor_s": round(_processor_s(up) - spent_s, 1),
                    "load": os.getloadavg()[0],
                    "versions": len(versions(Workspace(str(folder / "w")), NAME)),
                    "timings": _timings(folder / "w"),
                    "phases": phases(timeline, ended, stages),
                    "log": up.log.read_text()[said:].splitlines(),
                }
            )
        return {"settle_s": settle_s, "first_run": _length(first), "arrivals": rows}


def burst(folder: Path, minutes: float, batches: int, settle_s: float) -> dict[str, Any]:
    """Random batches at random moments, and what is left of them."""
    source, rng, count = folder / "photos", random.Random(3), 0
    photos.class_folders(source, {"red": 60, "green": 60, "blue": 60})
    flags = ["--backbone", "embedded", "--set", "backbone.image_size_px=64", "--set", "split.test_share=0.25"]
    moments = sorted(rng.uniform(0, 60 * minutes) for _ in range(batches))
    with running(folder, source, "--name", NAME, "--quiet", settle_s, *flags) as up:
        started = time.time()
        for due in moments:
            time.sleep(max(0.0, started + due - time.time()))
            for _ in range(rng.randint(1, LONGEST_BATCH)):
                label = rng.choice(["blue", "green", "red"])
                place = ["blue", "green", "red"].index(label)
                picture = photos.encoded(photos.photo(10_000 * (place + 1) + count, hue=place))
                write_slowly(source / label / f"late-{count:05d}.jpg", picture, lambda: time.sleep(rng.uniform(0, 0.3)))
                count += 1
        workspace = Workspace(str(folder / "w"))
        up.wait_for(lambda: last_snapshot(workspace, NAME) == digests(source) and not up.unfinished(), TIMEOUT_S)
        rows, runs = embedded(workspace, NAME), up.runs()
        return {
            "batches": batches,
            "arrived": count,
            "runs": len(runs),
            "events": len(up.events()),
            "not_completed": [run["id"] for run in runs if run["state_type"] != "COMPLETED"],
            "lost": len(digests(source) - last_snapshot(workspace, NAME)),
            "embedded_twice": len(rows) - len(set(rows)),
            "at_once": overlaps(runs),
            "versions": len(versions(workspace, NAME)),
        }


def _copy(files: list[Path], target: Path) -> None:
    for file in files:
        there = target / file.parent.name / f"{file.parent.parent.name}-{file.name}"
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, there)


def _ended(up: Up, number: int) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        runs = up.runs()
        return runs[number] if len(runs) > number and runs[number]["end_time"] else None

    return up.wait_for(ended, TIMEOUT_S)


def _processor_s(up: Up) -> float:
    """Of `headstart up` and all below it, those that have ended among them."""
    parent, spent_s = psutil.Process(up.process.pid), 0.0
    for process in [parent, *parent.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            spent_s += sum(process.cpu_times()[:4])  # its own, and those of its children that have ended
    return spent_s


def _state_time(up: Up, run: dict[str, Any], kind: str) -> float:
    states = up.get(f"/flow_run_states/?flow_run_id={run['id']}")
    return min(moment(state["timestamp"]) for state in states if state["type"] == kind)


def _length(run: dict[str, Any]) -> float:
    return round(moment(run["end_time"]) - moment(run["start_time"]), 1)


def _timings(workspace: Path) -> dict[str, float]:
    summary = max(workspace.glob("runs/*/summary.json"))
    return json.loads(summary.read_text())["timings_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    soon = commands.add_parser("arrival")
    soon.add_argument("photographs", type=Path)
    soon.add_argument("--times", type=int, default=1)
    soon.add_argument("flags", nargs=argparse.REMAINDER, help="for headstart up")
    many = commands.add_parser("burst")
    many.add_argument("--minutes", type=float, default=MINUTES)
    many.add_argument("--batches", type=int, default=BATCHES)
    for each in (soon, many):
        each.add_argument("--quiet", type=float, default=5.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headstart-fresh-") as folder:
        if asked.command == "arrival":
            found = arrival(Path(folder), asked.photographs, asked.times, asked.quiet, asked.flags)
        else:
            found = burst(Path(folder), asked.minutes, asked.batches, asked.quiet)
    print(json.dumps(found, indent=2))
    if any(found.get(key) for key in ("lost", "embedded_twice", "at_once", "not_completed")):
        sys.exit(1)


if __name__ == "__main__":
    main()
