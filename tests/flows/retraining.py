"""The flow, run in the test's process on small images with the embedded backbone; needs the fixture `prefect_api`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State

from flows.retrain import retrain
from tasks.config import Config, parse_config
from tasks.modality.images.augmentation import policy_of
from tasks.runs import new_run
from tests.extractors import exported

NAME = "tints"
# Colours are easily told apart: the head claims less than comes true, and the gate would refuse that.
LENIENT = "[calibration]\nmax_error = 0.5\n"
TINY: dict[str, Any] = {
    "backbone": {"name": "embedded", "image_size_px": 32},
    "split": {"test_share": 0.25},
    "finetune": {"epochs": 4},
    "evaluate": {"cross_fit_s": 0},
}


def tiny(**sections: dict[str, Any]) -> Config:
    """The configuration of a quick run; `sections` are merged into it."""
    return parse_config({name: {**TINY.get(name, {}), **sections.get(name, {})} for name in {*TINY, *sections}})


def ended_in(source: Path | str, workspace: Path | str, *, force: bool = False, **sections: Any) -> State[Any]:
    """The state that a run of the model `tints` ends in; what it raised is raised by the state's `result()`."""
    parameters = {"source": str(source), "name": NAME, "workspace": str(workspace), "config": tiny(**sections)}
    return retrain(**parameters, force=force, return_state=True)  # type: ignore[return-value]


def retrained(source: Path | str, workspace: Path, *, force: bool = False, **sections: Any) -> dict[str, Any]:
    """The summary of such a run, with a feature extractor that was exported before and gates that bear its haste."""
    gates = workspace.parent / "lenient.toml"
    gates.parent.mkdir(parents=True, exist_ok=True)
    gates.write_text(LENIENT)
    sections = {**sections, "evaluate": {"gates": str(gates), **sections.get("evaluate", {})}}
    config = tiny(**sections)
    exported(new_run(str(source), NAME, str(workspace), config), policy_of(config))
    return ended_in(source, workspace, force=force, **sections).result()
