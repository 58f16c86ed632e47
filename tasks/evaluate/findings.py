"""What was measured on a candidate: what the gates judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.evaluate.classes import ClassChanges
from tasks.evaluate.comparison import ClassComparison, Comparison
from tasks.evaluate.fresh_process import FreshProcess
from tasks.evaluate.latency import Latency
from tasks.evaluate.parity import Parity
from tasks.evaluate.robustness import Changed


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was measured on the candidate; None, or an empty list, is missing evidence."""

    labels: tuple[str, ...]
    targets: np.ndarray  # int [N], test split
    probabilities: np.ndarray  # float [N, C]
    metrics: dict[str, float]
    per_class: list[dict[str, float]]
    parity: Parity | None
    fresh_process: FreshProcess | None
    latency: Latency | None
    size_bytes: int | None
    robustness: list[Changed]
    champion_version: int | None
    comparison: Comparison | None  # over the test images of the classes that both models have
    class_comparisons: list[ClassComparison] | None  # over the same images
    changes: ClassChanges | None = None  # since the champion; None before there is one
    unknown: dict[str, Any] | None = None  # `tasks.networks.unknown_classes.Unknown`; None with too few classes
