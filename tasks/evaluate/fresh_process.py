"""Does model.onnx work without headstart? (TFX's InfraValidator checks the same before a model is published.)

A new interpreter, isolated from this one's paths and variables, loads the candidate with ONNX Runtime alone and
predicts a few test items one by one, as a server would. It has one time budget, its start included, and is killed
after that.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.modality.feeds import Feed

RUNNER = Path(__file__).with_name("fresh_runner.py")


@dataclass(frozen=True, kw_only=True)
class FreshProcess:
    """The result of the new process; `problem` is why it did not finish, None where it did."""

    images: int
    agreed: int  # predictions with the label of the evaluation
    seconds: float  # from its start to its end
    load_s: float = 0.0
    slowest_ms: float = 0.0
    problem: str | None = None


def predict_in_fresh_process(
    model: bytes, feeds: Sequence[Feed], labels: Sequence[str], budget_s: float
) -> FreshProcess:
    """Predicts items in a new process.

    Args:
        model: the bytes of model.onnx.
        feeds: what it takes of each.
        labels: predicted for each in the evaluation.
        budget_s: seconds after which the process is killed.
    """
    started = time.perf_counter()

    def stopped(problem: str) -> FreshProcess:
        seconds = time.perf_counter() - started
        return FreshProcess(images=len(feeds), agreed=0, seconds=seconds, problem=problem)

    command = [sys.executable, "-I", str(RUNNER)]
    try:
        done = subprocess.run(command, input=arrays(model, feeds), capture_output=True, timeout=budget_s, check=False)
    except subprocess.TimeoutExpired:
        return stopped(f"it was not done after {budget_s:g} s")
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        return stopped(f"it ended with status {done.returncode}: {last[:300]}")
    output = json.loads(done.stdout)
    return FreshProcess(
        images=len(feeds),
        agreed=sum(found == wanted for found, wanted in zip(output["labels"], labels, strict=True)),
        seconds=time.perf_counter() - started,
        load_s=output["load_s"],
        slowest_ms=1000 * max(output["took_s"], default=0.0),
    )


def arrays(model: bytes, feeds: Sequence[Feed]) -> bytes:
    """What the new process reads from its standard input."""
    stream = io.BytesIO()
    for array in (np.frombuffer(model, np.uint8), *(feed[name] for feed in feeds for name in sorted(feed))):
        np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
