"""`headstart demo`: the whole flow, twice, on data and a backbone that come with the package."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from flows.retrain import retrain
from tasks.config import Config, parse_config
from tasks.workspace import Workspace

NAME = "digits"
BATCHES = {
    "tfds:headstart_digits/first": "1,500 handwritten digits, scanned and labelled",
    "tfds:headstart_digits/all": "297 more arrive",
}


def demo_config() -> Config:
    """The embedded feature extractor, and no mirrored views: a mirrored 2 is no 2."""
    return parse_config({"backbone": {"name": "embedded", "weights": "default"}, "augment": {"views": 0}})


def run_demo(workspace: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Retrains on each batch in turn; yields what arrived and the run's summary."""
    # Prepared beside the rest, and not in the user's home. Read by tensorflow-datasets when the builder is made.
    os.environ["TFDS_DATA_DIR"] = Workspace(workspace).path("tfds")
    import flows.digits  # noqa: F401 - importing a builder registers it

    for source, arrived in BATCHES.items():
        yield arrived, retrain(source=source, name=NAME, workspace=workspace, config=demo_config())  # type: ignore[misc]
