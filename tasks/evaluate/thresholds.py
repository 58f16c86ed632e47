"""The thresholds of the gates: `expectations/gates.toml`, and what a file of the user's changes in it."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

import expectations
from tasks.config import Section
from tasks.errors import ConfigError
from tasks.evaluate.robustness import Robustness


class Evidence(Section):
    min_test_images: int = Field(ge=1)


class Floors(Section):
    min_accuracy: float = Field(ge=0, le=1)
    min_accuracy_over_majority: float = Field(ge=-1, le=1)
    min_macro_f1: float = Field(ge=0, le=1)
    min_class_recall: float = Field(ge=0, le=1)


class ParityLimits(Section):
    images: int = Field(ge=1)
    min_label_agreement: float = Field(ge=0, le=1)
    max_probability_difference: float = Field(gt=0, le=1)


class Calibration(Section):
    max_error: float = Field(ge=0, le=1)


class LatencyLimits(Section):
    max_p95_ms: float = Field(gt=0)
    runs: int = Field(ge=5)
    budget_s: float = Field(gt=0)


class Size(Section):
    max_megabytes: float = Field(gt=0)


class ChampionPolicy(Section):
    non_inferiority_margin: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0.5, lt=1)
    min_paired_images: int = Field(ge=1)
    promote: list[Literal["better", "equivalent", "worse", "not-enough-data"]]
    refuse_class_regressions: bool
    undecided: Literal["refuse", "promote-if-grown"]
    max_changed_share: float = Field(ge=0, le=1)


class NewClasses(Section):
    min_recall: float = Field(ge=0, le=1)


class UnknownClasses(Section):
    min_auroc: float = Field(ge=0, le=1)


class Serving(Section):
    images: int = Field(ge=1)
    budget_s: float = Field(gt=0)


class Gates(Section):
    """The thresholds for one model; `expectations/gates.toml` explains each."""

    evidence: Evidence
    floors: Floors
    calibration: Calibration
    parity: ParityLimits
    serving: Serving
    latency: LatencyLimits
    size: Size
    robustness: Robustness
    champion: ChampionPolicy
    new_classes: NewClasses
    unknown: UnknownClasses

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()


def gates_file(name: str) -> Path:
    """A gates file by its name in `expectations/`, or by its path. Raises ConfigError."""
    folder = Path(expectations.__file__).parent
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(f"evaluate.gates: {path} does not exist; give 'gates', or the path of a .toml file like it")
    return path


def load_gates(file: str, model: str) -> Gates:
    """The thresholds for one model: `expectations/gates.toml`, overridden by `file`, overridden by the tables
    `[model.NAME.…]` of `file`.

    Raises:
        ConfigError: naming each bad or unknown key.
    """
    path = gates_file(file)
    own, shipped = _read(path), _read(gates_file("gates"))
    for_model = own.pop("model", {})
    shipped.pop("model", None)
    if not isinstance(for_model, dict) or not all(isinstance(table, dict) for table in for_model.values()):
        raise ConfigError(f"{path}: [model] takes tables such as [model.{model}.floors]")
    try:
        return Gates.model_validate(_merged(_merged(shipped, own), for_model.get(model, {})))
    except ValidationError as exc:
        lines = [f"  {'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors()]
        raise ConfigError(f"{path} is not a valid gates file (for the model {model}):\n" + "\n".join(lines)) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not valid TOML: {exc}") from exc


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below`, overridden by the keys of `above`, table by table."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _merged(below[key], value) if both else value
    return merged
