"""Confidence intervals of shares."""

from __future__ import annotations


def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share (Wilson 1927), in 0..1; (0, 1) where `n` is 0.

    Sound for small n and extreme shares, where the textbook interval is not (Brown, Cai, DasGupta 2001).
    """
    from scipy.stats import binomtest

    if n == 0:
        return 0.0, 1.0
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
