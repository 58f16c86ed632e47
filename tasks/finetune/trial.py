"""Trials of settings on the validation split, and the choice among them. No test image is read.

The validation accuracy of the chosen trial is too high: of several equal settings, the luckiest one wins. `optimism`
estimates by how much.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.config import CHOSEN, Auto
from tasks.errors import ConfigError
from tasks.networks.onnx_session import open_session
from tasks.records import FeatureExtractor, Run

HALVINGS = 200
LATENCY_RUNS = 11


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One combination of settings, and its results on the V images of the validation split.

    `losses` are negative log-likelihoods after temperature scaling, float [V]; `correct` is bool [V]. Both are empty
    where the feature extractor exceeds the budget, so that nothing was trained.
    """

    settings: dict[str, Any]  # by `section.key`
    losses: list[float]
    correct: list[bool]
    latency_ms: float  # of the feature extractor, one image on one thread, median
    size_mb: float  # of the feature extractor
    seconds: float

    @property
    def loss(self) -> float:
        return statistics.fmean(self.losses) if self.losses else math.inf

    @property
    def accuracy(self) -> float:
        return statistics.fmean(self.correct) if self.correct else 0.0

    def fits(self, limits: Auto) -> bool:
        """Whether it is within the latency and size budget."""
        fast = not limits.latency_ms or self.latency_ms <= limits.latency_ms
        return fast and (not limits.size_mb or self.size_mb <= limits.size_mb)


def measure_extractor(run: Run, extractor: FeatureExtractor) -> Trial:
    """Latency and size of a feature extractor, before any image is embedded."""
    file = run.workspace.local_file(extractor.onnx_path)
    return Trial(
        settings={key: run.config.key(key) for key in CHOSEN},
        losses=[],
        correct=[],
        latency_ms=round(extractor_latency_ms(file, extractor.image_size_px), 3),
        size_mb=round(Path(file).stat().st_size / 1e6, 3),
        seconds=0.0,
    )


def evaluated(extractor: Trial, logits: np.ndarray, targets: np.ndarray, seconds: float) -> Trial:
    """A measured feature extractor with the results of its training.

    Args:
        logits: float [V, C], divided by the temperature.
        targets: int [V].
    """
    from scipy.special import log_softmax

    scores = log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(targets)), targets]
    return replace(
        extractor,
        losses=[round(float(loss), 6) for loss in -scores],
        correct=(logits.argmax(axis=1) == targets).tolist(),
        seconds=round(seconds, 1),
    )


def best(trials: Sequence[Trial], limits: Auto) -> Trial:
    """The trial within the budget with the lowest validation loss; the first of equal ones.

    Raises:
        ConfigError: no trial is within the budget.
    """
    within = [trial for trial in trials if trial.fits(limits)]
    if not within:
        least = min(trials, key=lambda trial: (trial.latency_ms, trial.size_mb))
        raise ConfigError(
            f"--auto: no backbone is within the budget, auto.latency_ms={limits.latency_ms} and "
            f"auto.size_mb={limits.size_mb}; the fastest, {least.settings['backbone.name']}, takes "
            f"{least.latency_ms:.1f} ms and has {least.size_mb:.1f} MB: raise the budget, name a smaller backbone, or "
            "lower backbone.image_size_px"
        )
    return min(within, key=lambda trial: trial.loss)


def optimism(trials: Sequence[Trial], seed: int = 0) -> float:
    """By how much the chosen trial's accuracy is too high on the images that it was chosen by.

    The mean over random halvings of validation: the trial with the lowest loss on one half, its accuracy there less
    that on the other half. A choice by all of validation is less optimistic, because it uses twice the images.
    """
    losses = np.array([trial.losses for trial in trials])
    correct = np.array([trial.correct for trial in trials])
    rng, count = np.random.default_rng(seed), losses.shape[1]
    if count < 2:
        return 0.0
    gaps = []
    for _ in range(HALVINGS):
        order = rng.permutation(count)
        seen, unseen = order[: count // 2], order[count // 2 :]
        chosen = losses[:, seen].mean(axis=1).argmin()
        gaps.append(correct[chosen, seen].mean() - correct[chosen, unseen].mean())
    return max(0.0, float(np.mean(gaps)))  # negative values are noise


def extractor_latency_ms(onnx_file: str, image_size_px: int) -> float:
    """The median time of one image through the feature extractor, on one thread, in milliseconds."""
    session = open_session(onnx_file)
    image = np.zeros((1, image_size_px, image_size_px, 3), np.uint8)
    times = []
    for _ in range(LATENCY_RUNS + 1):
        started = time.perf_counter()
        session.run(["features"], {"image": image})
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[1:])  # the first run allocates memory
