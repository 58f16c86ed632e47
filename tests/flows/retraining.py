"""The flow, run in the test's process on small images with the embedded backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.retrain import retrain
from tasks.config import Config, parse_config

NAME = "tints"
TINY: dict[str, Any] = {"backbone": {"name": "embedded", "image_size_px": 32}, "split": {"test_share": 0.25}}


def tiny(**sections: dict[str, Any]) -> Config:
    """The configuration of a quick run; `sections` are merged into it."""
    merged = {name: {**TINY.get(name, {}), **sections.get(name, {})} for name in {*TINY, *sections}}
    return parse_config(merged)


def retrained(source: Path | str, workspace: Path | str, *, force: bool = False, **sections: Any) -> dict[str, Any]:
    """The summary of a run of the model `tints`; needs the fixture `prefect_api`."""
    config = tiny(**sections)
    return retrain(source=str(source), name=NAME, workspace=str(workspace), config=config, force=force)  # type: ignore[return-value]
