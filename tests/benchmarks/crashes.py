"""A retrain that is killed with SIGKILL again and again, and started again until it is finished: is the result the
same?

    uv run python -m tests.benchmarks.crashes [--kills 20] [--seed 1]

Every other kill hits a real `headstart retrain` process at a moment drawn evenly over the time of an undisturbed one;
the kills between are aimed at the short stages behind the training: export, evaluate, publish and report. The last
start of each model is left alone. Then the snapshot, the key, the head, the metrics, the gates and each prediction for
a held-out image have to be those of the undisturbed run, to the last bit, and no finished stage may have been repeated.
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
OPTIONS += ["--set", "split.test_share=0.25", "--json"]
STAGES = ("validate", "split", "finetune", "export", "evaluate")  # whose results are artifacts, in the flow's order
# The short stages, each with what is there when it begins, and about how long it takes, in seconds.
AIMED = {
    "export": ("artifacts/finetune", 1.0),
    "evaluate": ("artifacts/export", 3.0),
    "publish": ("artifacts/evaluate", 0.05),
    "report": ("models", 0.5),
}


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
                if (found_digests := digests(Workspace(str(place / f"model-{models}")))) != expected:
                    raise SystemExit(f"another result: {found_digests}, not {expected}")
                print(f"{recovered} kills, {models} models, all as undisturbed: {dict(stages)}", file=sys.stderr)
        finally:
            server.stop()
    print(
        json.dumps({"kills": recovered, "models": models, "killed_during": stages, "undisturbed_s": round(seconds, 1)})
    )


def kill_until_done(
    source: Path, folder: Path, env: dict[str, str], seconds: float, draw: random.Random, kills: int
) -> list[str]:
    """Starts one model's retrain, and kills it, until one finishes. Returns what each kill interrupted."""
    workspace, interrupted = Workspace(str(folder)), []
    finished: dict[str, dict[str, datetime]] = {}
    targets = iter(draw.sample(sorted(AIMED), len(AIMED)))
    while True:
        process = start(source, folder, env)
        try:
            if len(interrupted) == kills:
                process.wait()
            elif len(interrupted) % 2 and (target := next(targets, None)):
                wait_for(workspace, target, process, draw)
            else:
                process.wait(draw.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            interrupted.append(stage_of(workspace))
        now = entries(workspace)
        if any(now[stage] != finished[stage] for stage in finished):
            repeated = {stage: (finished[stage], now[stage]) for stage in finished if now[stage] != finished[stage]}
            raise SystemExit(f"a finished stage was repeated: {repeated}; the workspace was {folder}")
        finished = now
        if process.returncode == 0:
            return interrupted
        if process.returncode > 0:
            raise SystemExit(f"it failed with status {process.returncode}; its workspace was {folder}")


def wait_for(workspace: Workspace, stage: str, process: subprocess.Popen[bytes], draw: random.Random) -> None:
    """Waits for a moment within a short stage. Raises TimeoutExpired there, as `process.wait` does."""
    before, seconds = AIMED[stage]
    suffix = "manifest.json" if before == "models" else "artifact.json"
    while not any(file.name == suffix for file in workspace.files(before)):
        if process.poll() is not None:
            return
        time.sleep(0.005)
    process.wait(draw.uniform(0, seconds))


def retrain(source: Path, folder: Path, env: dict[str, str]) -> None:
    if status := start(source, folder, env).wait():
        raise SystemExit(f"the undisturbed retrain ended with status {status}")


def start(source: Path, folder: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flows.cli", "retrain", str(source), "--workspace", str(folder), *OPTIONS]
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=log)


def entries(workspace: Workspace) -> dict[str, dict[str, datetime]]:
    """When each finished artifact was written, by its path, for each stage."""
    found: dict[str, dict[str, datetime]] = {}
    for file in workspace.files("artifacts"):
        if file.name == "artifact.json":
            found.setdefault(file.path.split("/")[1], {})[file.path] = file.modified
    return found


def stage_of(workspace: Workspace) -> str:
    """What a kill interrupted."""
    if any(file.name == "summary.json" for file in workspace.files("runs")):
        return "after the run"
    if workspace.names("models"):
        return "publish and report"
    finished = entries(workspace)
    if "split" in finished and "finetune" not in finished:
        return "finetune" if workspace.names("features") else "extract"
    if not workspace.names("runs"):
        return "start and ingest"
    return next((stage for stage in STAGES if stage not in finished), "publish and report")


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
