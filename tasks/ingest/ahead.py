"""`python -m tasks.ingest.ahead`: inspects a source's images in a process of its own, ahead of the ingest stage.

What it finds goes into the inspection store, where the stage finds it; nothing else is written.
"""

from __future__ import annotations

import subprocess

from tasks import background
from tasks.artifacts import Run
from tasks.ingest.catalogue import inspect_source


def start(run: Run) -> subprocess.Popen[bytes] | None:
    """Starts it; None for a source of tensorflow-datasets, which has no files to read."""
    return None if run.source.startswith("tfds:") else background.start(__name__, run)


if __name__ == "__main__":
    inspect_source(background.given_run())
