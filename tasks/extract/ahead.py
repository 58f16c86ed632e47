"""`python -m tasks.extract.ahead`: exports a run's trunk in a process of its own, ahead of the extraction stage.

TensorFlow's import and tf2onnx hold Python's lock for seconds; elsewhere, they don't hold up the flow.
"""

from __future__ import annotations

import subprocess
import sys

from tasks import background
from tasks.artifacts import Run
from tasks.augment.policy import policy_of
from tasks.backbones.trunk import trunk_of
from tasks.extract.export import ensure_exported

_started: dict[str, subprocess.Popen[bytes]] = {}


def start(run: Run) -> subprocess.Popen[bytes] | None:
    """Starts it, once for each trunk; None where the workspace has the trunk, or Keras is in this process already, or
    will be at once: tensorflow-datasets imports TensorFlow."""
    if run.source.startswith("tfds:"):
        return None
    trunk = trunk_of(run, policy_of(run.config))
    place = f"{run.workspace.url} {trunk.onnx_path}"
    if place not in _started:
        if "keras" in sys.modules or run.workspace.exists(trunk.onnx_path):
            return None
        _started[place] = background.start(__name__, run)
    return _started[place]


if __name__ == "__main__":
    given = background.given_run()
    ensure_exported(given, trunk_of(given, policy_of(given.config)))
