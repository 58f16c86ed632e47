"""Where a retrain's seconds go, phase by phase: on the clock and of a core, beside the floor, the pass of its images.

    KERAS_HOME=… uv run python -m tests.benchmarks.phases PHOTOGRAPHS [--repeats 3] [--precision fp32] [--server up]

PHOTOGRAPHS is a folder of `train/` and `validation/`, a subfolder a class. With Prefect's server up, or where each run
starts its own (`--server cold`): the first retrain of a fresh workspace, the same command again, and again with 1 % new
images. The clock is divided among the stages that the run waits for one after the other; what runs beside them (the
reference, the review, the familiarity) counts in their seconds of a core. The pass: the extraction stage alone, in a
process of its own. Medians of the repeats, as a table in Markdown. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tests.benchmarks.extraction import prepare
from tests.benchmarks.processes import environment, prefect_server
from tests.benchmarks.retrain import STEPS, headstart, migrate, save_new
from tests.benchmarks.scale import in_a_process

# The stages that a run waits for; those that take no time count as what lies between.
WAITED_FOR = ("ingest", "validate", "extract", "cross-fit", "finetune", "export", "evaluate", "weigh", "report")
BEFORE, BETWEEN, AFTER = "before the first stage", "between stages", "after the last stage"
ORDER = (BEFORE, *WAITED_FOR, BETWEEN, AFTER)

Spans = list[tuple[str, float, float]]  # a stage, and when it began and ended, in seconds since the epoch
Turn = Mapping[str, Mapping[str, tuple[float, float]]]  # by step and phase the seconds, on the clock and of a core


def phases(timeline: Sequence[tuple[float, float]], end: float, stages: Spans) -> dict[str, tuple[float, float]]:
    """Seconds on the clock and of a core in each phase of a process, which add up to all of it.

    Args:
        timeline: of the process, as an `Answer` has it.
        end: of the process, in seconds since the epoch.
        stages: of it, one after the other.
    """
    moments, spent = (np.array(column) for column in zip(*timeline, strict=True))
    found: defaultdict[str, float] = defaultdict(float)
    cores: defaultdict[str, float] = defaultdict(float)

    def count(phase: str, begin: float, end: float) -> None:
        found[phase] += end - begin
        cores[phase] += float(np.interp(end, moments, spent) - np.interp(begin, moments, spent))

    last, gap = timeline[0][0], BEFORE
    for stage, begin, finish in stages:
        count(gap, last, begin)
        count(stage, begin, finish)
        last, gap = finish, BETWEEN
    count(AFTER, last, end)
    return {phase: (found[phase], cores[phase]) for phase in ORDER if phase in found}


def stages_since(prefect_home: Path, moment: float) -> Spans:
    """The stages that began after a moment and that a run waits for, from the database of Prefect's server."""
    with closing(sqlite3.connect(f"file:{prefect_home / 'prefect.db'}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT name, start_time, end_time FROM task_run WHERE end_time IS NOT NULL")
        spans = [(name.partition(":")[0], _epoch(begin), _epoch(end)) for name, begin, end in rows]
    return sorted((span for span in spans if span[0] in WAITED_FOR and span[1] > moment), key=lambda span: span[1])


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def measure(data: Path, folder: Path, precision: str, server: str) -> Turn:
    """One turn: the phases of each step, in a fresh workspace."""
    shutil.copytree(data, folder / "data")
    found = {}
    with prefect_server(folder / "prefect") if server == "up" else nullcontext((None, 0.0)) as (url, _):
        env = environment(folder / "prefect", url)
        for step in STEPS:
            if step == "1 % new":
                save_new(data, folder / "data")
            answer = headstart(folder / "data", folder / "workspace", env, ["--precision", precision])
            time.sleep(2)  # the server writes the last states a moment later
            stages = stages_since(folder / "prefect", answer.started_at)
            found[step] = phases(answer.timeline, answer.started_at + answer.seconds, stages)
            print(step, f"{answer.seconds:.1f} s, {answer.processor_s:.1f} s of a core", file=sys.stderr, flush=True)
    return found


def pass_alone(data: Path, folder: Path, precision: str) -> dict[str, float]:
    """The extraction stage's seconds, on the clock and of a core."""
    job = prepare(data, folder, {"precision": precision})
    before = time.process_time()
    seconds = job.embed()
    return {"seconds": seconds, "processor_s": time.process_time() - before}


def table(turns: Sequence[Turn], floor: tuple[float, float]) -> str:
    """A row for each phase, the whole and the pass; a column for each step's seconds on the clock and of a core."""
    heads = [f"{step}, {kind}" for step in STEPS for kind in ("s", "core-s")]
    lines = ["| phase | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    used = [phase for phase in ORDER if any(phase in turn[step] for turn in turns for step in STEPS)]
    for phase in used:
        lines.append(_row(phase, (_median(turn[step].get(phase, (0.0, 0.0)) for turn in turns) for step in STEPS)))
    wholes = [_median(_sum(turn[step].values()) for turn in turns) for step in STEPS]
    lines.append(_row("**whole**", wholes))
    lines.append(_row("the pass of all images", [floor]))
    lines.append(f"\nA first run takes {wholes[0][1] / floor[1]:.2f} times the core-seconds of its pass.")
    return "\n".join(lines)


def _sum(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    clock, cores = zip(*pairs, strict=True)
    return sum(clock), sum(cores)


def _median(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    clock, cores = zip(*pairs, strict=True)
    return median(clock), median(cores)


def _row(name: str, pairs: Iterable[tuple[float, float]]) -> str:
    cells = [f"{value:.1f}" for pair in pairs for value in pair]
    return f"| {name} | " + " | ".join(cells + [""] * (2 * len(STEPS) - len(cells))) + " |"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photographs", type=Path, help="folder with train/ and validation/")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", choices=["fp32", "int8"], default="fp32")
    parser.add_argument("--server", choices=["up", "cold"], default="up")
    given = parser.parse_args(arguments)
    data, turns, passes = given.photographs.resolve(), [], []
    with tempfile.TemporaryDirectory(prefix="headstart-phases-") as aside:
        for turn in range(given.repeats):
            folder = Path(aside, str(turn))
            folder.mkdir()
            migrate(folder / "prefect")
            turns.append(measure(data, folder, given.precision, given.server))
            alone: dict[str, Any] = in_a_process(pass_alone, data, folder / "pass", given.precision)
            passes.append((alone["seconds"], alone["processor_s"]))
            print("pass", passes[-1], file=sys.stderr, flush=True)
            shutil.rmtree(folder)
    print(table(turns, _median(passes)))


if __name__ == "__main__":
    main(sys.argv[1:])
