"""The latency of model.onnx: one item on one thread."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from tasks.modality.feeds import Feed
from tasks.networks.classifier import Classifier

WARM_UP = 3  # runs that are not counted: the first one allocates memory
MIN_RUNS = 5


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Wall time of one item on one thread of this machine; `interval_ms` is that of the 95th percentile, at 95 %.

    An item is an image of the backbone's own size, or a text of `tokens` tokens.
    """

    runs: int
    median_ms: float
    p95_ms: float
    interval_ms: tuple[float, float]
    image_size_px: int = 0
    tokens: int = 0

    @property
    def item(self) -> str:
        return f"text of {self.tokens} tokens" if self.tokens else f"image of {self.image_size_px} px"


def noise(image_size_px: int) -> np.ndarray:
    """An image of noise, uint8 [S, S, 3]."""
    return np.random.default_rng(0).integers(0, 256, (image_size_px, image_size_px, 3), dtype=np.uint8)


def measure_latency(classifier: Classifier, feed: Feed, *, runs: int, budget_s: float) -> Latency:
    """Times a single item.

    Args:
        feed: of it.
        runs: the most; fewer, but at least `MIN_RUNS`, where they take longer than `budget_s` seconds in all.
    """
    for _ in range(WARM_UP):
        classifier.predict_one(feed)
    took_s: list[float] = []
    while len(took_s) < runs and (len(took_s) < MIN_RUNS or sum(took_s) < budget_s):
        started = time.perf_counter()
        classifier.predict_one(feed)
        took_s.append(time.perf_counter() - started)
    took_ms = 1000 * np.sort(took_s)
    return Latency(
        runs=len(took_ms),
        image_size_px=feed["image"].shape[1] if "image" in feed else 0,
        tokens=feed["input_ids"].shape[1] if "input_ids" in feed else 0,
        median_ms=float(np.median(took_ms)),
        p95_ms=float(np.quantile(took_ms, 0.95)),
        interval_ms=_p95_interval(took_ms),
    )


def _p95_interval(ordered: np.ndarray) -> tuple[float, float]:
    """From order statistics: the number of runs below the true percentile is binomial for every distribution."""
    from scipy.stats import binom

    low, high = binom.ppf([0.025, 0.975], len(ordered), 0.95).astype(int)
    return float(ordered[max(0, low - 1)]), float(ordered[min(high, len(ordered) - 1)])
