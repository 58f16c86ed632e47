"""A retrain killed with SIGKILL at random moments, and started again until it is done: does it come to the same?

    uv run python -m tests.benchmarks.crashes [--kills 20] [--seed 1]

Each kill takes a real `headstart retrain` process at a moment drawn evenly over the time that an undisturbed one took.
The last start of each model is let through. Then the snapshot, the key, the head, the metrics, the gates and
each answer to a held-out image have to be those of the undisturbed run, to the last bit, and no finished stage may have
been done again.
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
from pathlib import Path
from typing import Any

from flows.server import EphemeralServer
from tasks.workspace import Workspace
from tests import photos
from tests.benchmarks.processes import environment

NAME = "tints"
OPTIONS = ["--name", NAME, "--backbone", "embedded", "--set", "backbone.image_size_px=64"]
OPTIONS += ["--set", "split.test_share=0.25", "--json"]
# Of each stage, what is there once it is finished; in the order of the flow.
FINISHED = ("validate", "split", "finetune", "export", "evaluate")


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
            started = time.perf_counter()
            retrain(source, place / "undisturbed", env)
            seconds = time.perf_counter() - started
            expected = digests(Workspace(str(place / "undisturbed")))
            stages, recovered, models = Counter(), 0, 0
            while recovered < given.kills:
                models += 1
                found = kill_until_done(source, place / f"model-{models}", env, seconds, draw, given.kills - recovered)
                stages.update(found)
                recovered += len(found)
                if (came_to := digests(Workspace(str(place / f"model-{models}")))) != expected:
                    raise SystemExit(f"it came to another end: {came_to}, not {expected}")
                print(f"{recovered} kills, {models} models, all as undisturbed: {dict(stages)}", file=sys.stderr)
        finally:
            server.stop()
    print(
        json.dumps({"kills": recovered, "models": models, "killed_during": stages, "undisturbed_s": round(seconds, 1)})
    )


def kill_until_done(
    source: Path, folder: Path, env: dict[str, str], seconds: float, draw: random.Random, kills: int
) -> list[str]:
    """Starts one model's retrain, and kills it, until a start comes to its end. Returns what each kill interrupted."""
    workspace, interrupted = Workspace(str(folder)), []
    finished: dict[str, Any] = {}
    while True:
        process = start(source, folder, env)
        try:
            if len(interrupted) < kills:
                process.wait(draw.uniform(0, seconds))
            else:
                process.wait()
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            interrupted.append(stage_of(workspace))
        now = entries(workspace)
        if any(now[stage] != finished[stage] for stage in finished):
            raise SystemExit(f"a finished stage was done again: {finished} became {now}")
        finished = now
        if process.returncode == 0:
            return interrupted
        if process.returncode > 0:
            raise SystemExit(f"it failed with status {process.returncode}; its workspace was {folder}")


def retrain(source: Path, folder: Path, env: dict[str, str]) -> None:
    if status := start(source, folder, env).wait():
        raise SystemExit(f"the undisturbed retrain ended with status {status}")


def start(source: Path, folder: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flows.cli", "retrain", str(source), "--workspace", str(folder), *OPTIONS]
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=log)


def entries(workspace: Workspace) -> dict[str, tuple[Any, Any]]:
    """Of each finished stage of the run that has begun, what it came to and when."""
    return {
        file.name.removesuffix(".json"): (workspace.read_json(file.path), file.modified)
        for file in workspace.files("runs")
        if "/done/" in file.path
    }


def stage_of(workspace: Workspace) -> str:
    """What a kill interrupted."""
    if not workspace.names("unfinished"):
        return "after the run" if workspace.names("models") else "start and ingest"
    if workspace.names("models"):
        return "publish and report"
    if workspace.names("features"):
        return next((stage for stage in FINISHED if stage not in entries(workspace)), "publish and report")
    return next((stage for stage in FINISHED[:2] if stage not in entries(workspace)), "extract")


def digests(workspace: Workspace) -> dict[str, Any]:
    """What a run has to come to, however often it was interrupted."""
    manifest = workspace.read_json(f"models/{NAME}/1/manifest.json")
    lineage = manifest["lineage"]
    return {
        # What model.onnx answers to each held-out image; its own bytes differ between two exports of one model.
        "answers": hashlib.sha256(workspace.read_bytes(f"runs/{manifest['run_id']}/predictions.parquet")).hexdigest(),
        "metrics": manifest["metrics"],
        "gates": [(gate["name"], gate["passed"]) for gate in manifest["decision"]["gates"]],
        **{key: lineage[key] for key in ("snapshot", "recipe", "head_digest", "config_digest")},
    }


if __name__ == "__main__":
    main()
