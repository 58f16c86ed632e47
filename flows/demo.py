"""`headstart demo`: the whole flow, twice, on data and a backbone that come with the package."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from flows.messages import ALL, FIRST_BATCH, messages_csv
from flows.retrain import retrain
from tasks.config import Config, parse_config
from tasks.workspace import Workspace

DIGITS, MESSAGES = "digits", "messages"
SCANS = {
    "tfds:headstart_digits/first": "1,500 handwritten digits, scanned and labelled",
    "tfds:headstart_digits/all": "297 more arrive",
}
ARRIVALS = {
    FIRST_BATCH: f"{FIRST_BATCH} messages to a shop, made from phrases",
    ALL: f"{ALL - FIRST_BATCH} more arrive",
}


def demo_config(text: bool = False) -> Config:
    """The embedded feature extractor, and no mirrored views: a mirrored 2 is no 2."""
    if text:
        return parse_config({"ingest": {"task": "text"}}).with_task("text")
    return parse_config({"backbone": {"name": "embedded", "weights": "default"}, "augment": {"views": 0}})


def run_demo(workspace: str, text: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Retrains on each batch in turn; yields what arrived and the run's summary."""
    name = MESSAGES if text else DIGITS
    for source, arrived in _messages(workspace) if text else _digits(workspace):
        yield arrived, retrain(source=source, name=name, workspace=workspace, config=demo_config(text))  # type: ignore[misc]


def _digits(workspace: str) -> Iterator[tuple[str, str]]:
    # Prepared beside the rest, and not in the user's home. Read by tensorflow-datasets when the builder is made.
    os.environ["TFDS_DATA_DIR"] = Workspace(workspace).path("tfds")
    import flows.digits  # noqa: F401 - importing a builder registers it

    yield from SCANS.items()


def _messages(workspace: str) -> Iterator[tuple[str, str]]:
    """The table, which grows as a person's would."""
    place = Workspace(workspace)
    for count, arrived in ARRIVALS.items():
        place.write_bytes("demo/messages.csv", messages_csv(count))
        yield place.display("demo/messages.csv"), arrived
