"""A retrain that is killed with SIGKILL again and again, and started again until it is finished: is the result the
same?

    uv run python -m tests.benchmarks.crashes [--kills 20] [--seed 1]

The first kill of each model hits a real `headstart retrain` process at a moment drawn evenly over the time of an
undisturbed one. The next are aimed at the short stages behind the training, one after the other: export, evaluate,
publish and report, each at a moment drawn evenly over its own time, which begins with the line that the stage before it
prints at its end. Then moments are drawn over the whole again. The last start of each model is left alone. Then the
snapshot, the key, the head, the metrics, the gates and each prediction for a held-out image have to be those of the
undisturbed run, to the last bit, and no finished stage may have been repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.server import EphemeralServer
from tasks.workspace import Workspace
from tests import photos
from tests.benchmarks.processes import environment

NAME = "tints"
OPTIONS = ["--name", NAME, "--backbone", "embedded", "--set", "backbone.image_size_px=64"]
OPTIONS += ["--set", "split.test_share=0.25"]
# The stages that the run waits for, in the flow's order; each prints a line when it has ended.
STAGES = ["ingest", "validate", "split", "extractor", "extract", "cross-fit", "finetune"]
STAGES += ["export", "evaluate", "publish", "report"]
# The short ones, each with what has ended when it begins: the review goes on beside the training.
AIMED = {
    "export": ("finetune",),
    "evaluate": ("export", "review"),
    "publish": ("evaluate",),
    "report": ("publish",),
}
POLL_S = 0.005


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        source = photos.class_folders(place / "photos", {"red": 40, "green": 40, "blue": 40})
        server = EphemeralServer()
        server.wait()
        env = environment(place / "prefect", server.api_url)
        try:
            retrain(source, place / "warm", env)
            seconds = retrain(source, place / "undisturbed", env)
            expected = digests(Workspace(str(place / "undisturbed")))
            stages, recovered, models = Counter(), 0, 0
            while recovered < given.kills:
                models += 1
                found = kill_until_done(source, place / f"model-{models}", env, seconds, draw, given.kills - recovered)
                stages.update(found)
                recovered += len(found)
                if (found_digests := digests(Workspace(str(place / f"model-{models}")))) != expected:
                    raise SystemExit(f"another result: {found_digests}, not {expected}")
                print(f"{recovered} kills, {models} models, all as undisturbed: {dict(stages)}", file=sys.stderr)
        finally:
            server.stop()
    print(
        json.dumps(
            {
                "kills": recovered,
                "models": models,
                "killed_during": stages,
                "undisturbed_s": round(seconds["report"], 1),
            }
        )
    )


def kill_until_done(
    source: Path, folder: Path, env: dict[str, str], seconds: dict[str, float], draw: random.Random, kills: int
) -> list[str]:
    """Starts one model's retrain, and kills it, until one finishes. Returns what each kill interrupted.

    Args:
        seconds: when each stage of an undisturbed retrain had ended, since its start.
        kills: how many at most.
    """
    workspace, interrupted = Workspace(str(folder)), []
    finished: dict[str, dict[str, datetime]] = {}
    targets = iter([None, *AIMED])
    while True:
        start = Start(source, folder, env)
        try:
            if len(interrupted) == kills:
                start.process.wait()
            elif target := next(targets, None):
                while not set(AIMED[target]) <= start.ended().keys() and start.process.poll() is None:
                    time.sleep(POLL_S)
                start.process.wait(draw.uniform(0, seconds[target] - max(seconds[each] for each in AIMED[target])))
            else:
                start.process.wait(draw.uniform(0, seconds["report"]))
        except subprocess.TimeoutExpired:
            start.process.kill()
            start.process.wait()
            interrupted.append(start.under_way())
        now = entries(workspace)
        if any(now[stage] != finished[stage] for stage in finished):
            repeated = {stage: (finished[stage], now[stage]) for stage in finished if now[stage] != finished[stage]}
            raise SystemExit(f"a finished stage was repeated: {repeated}; the workspace was {folder}")
        finished = now
        if start.process.returncode == 0:
            return interrupted
        if start.process.returncode > 0:
            raise SystemExit(f"it failed with status {start.process.returncode}: {start.log.read_text()}")


def retrain(source: Path, folder: Path, env: dict[str, str]) -> dict[str, float]:
    """A whole retrain: when each stage had ended, in seconds since its start."""
    start = Start(source, folder, env)
    while start.process.poll() is None:
        start.ended()
        time.sleep(POLL_S)
    if start.process.returncode:
        raise SystemExit(f"the undisturbed retrain ended with status {start.process.returncode}")
    return start.ended()


class Start:
    """A process of a retrain, and which stages it has passed, by the lines that it printed."""

    def __init__(self, source: Path, folder: Path, env: dict[str, str]) -> None:
        self.log = folder.parent / f"{folder.name}.log"
        self._ended: dict[str, float] = {}
        self._started = time.perf_counter()
        command = [sys.executable, "-m", "flows.cli", "retrain", str(source), "--workspace", str(folder), *OPTIONS]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    def ended(self) -> dict[str, float]:
        """The stages that have ended, each with when that was first seen."""
        for line in self.log.read_text(encoding="utf-8").splitlines():
            if line.endswith(" s)"):  # a result, with its seconds; the others say how a stage goes
                self._ended.setdefault(line.split()[0], time.perf_counter() - self._started)
        return self._ended

    def under_way(self) -> str:
        """The stage behind the last one that has ended."""
        ended = self.ended()
        return next((stage for stage in STAGES if stage not in ended), "the end")


def entries(workspace: Workspace) -> dict[str, dict[str, datetime]]:
    """When each finished artifact was written, by its path, for each stage."""
    found: dict[str, dict[str, datetime]] = {}
    for file in workspace.files("artifacts"):
        if file.name == "artifact.json":
            found.setdefault(file.path.split("/")[1], {})[file.path] = file.modified
    return found


def digests(workspace: Workspace) -> dict[str, Any]:
    """The result of a run, which must not depend on interruptions."""
    manifest = workspace.read_json(f"models/{NAME}/1/manifest.json")
    lineage = manifest["lineage"]
    return {
        # The predictions of model.onnx; its own bytes differ between two exports of one model.
        "predictions": hashlib.sha256(
            workspace.read_bytes(f"{lineage['artifacts']['evaluate']}/predictions.parquet")
        ).hexdigest(),
        "metrics": manifest["metrics"],
        "gates": [(gate["name"], gate["passed"]) for gate in manifest["decision"]["gates"]],
        **{key: lineage[key] for key in ("snapshot", "recipe", "head_digest", "config_digest")},
    }


if __name__ == "__main__":
    main()
