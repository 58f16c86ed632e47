"""Would more labels help, and of which class? From a simple classifier that is given a fifth, two fifths and four
fifths of the images there are, each judged by images that it was not given.

A figure of the data, not of the head: it says what the stored features gain by more images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

DOUBLINGS = (1, 2, 4)  # of the folds beside the one that is judged
Z95 = 1.96


def learning_curve(logits: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """The accuracy after each doubling of the images, the last doubling's gain class by class, and the next one's.

    Three points a doubling apart determine a curve whose gain shrinks by one factor from doubling to doubling; the next
    gain is the last one times that factor, kept between 0 and 1.

    Args:
        logits: float [3, N, C], of classifiers made of as many folds as `DOUBLINGS` says.
        targets: int [N].

    Returns:
        `{"points": [{"images", "accuracy"}], "gain", "gain_interval", "next_gain", "classes": [{"label", "images",
        "recall", "gain", "gain_interval"}]}`, the classes by gain; gains are in accuracy, or recall, by the last
        doubling, their intervals at 95 %.
    """
    right = logits.argmax(axis=2) == targets
    accuracy = right.mean(axis=1)
    gain, interval = _gain(right)
    earlier = accuracy[1] - accuracy[0]
    factor = float(np.clip(gain / earlier, 0, 1)) if earlier > 0 else 0.0
    classes = [
        {
            "label": label,
            "images": int((targets == index).sum()),
            "recall": float(right[2, targets == index].mean()),
            **dict(zip(("gain", "gain_interval"), _gain(right[:, targets == index]), strict=True)),
        }
        for index, label in enumerate(labels)
        if (targets == index).any()
    ]
    total = len(targets) / (DOUBLINGS[-1] + 1)
    return {
        "points": [
            {"images": round(total * folds), "accuracy": float(share)}
            for folds, share in zip(DOUBLINGS, accuracy, strict=True)
        ],
        "gain": gain,
        "gain_interval": interval,
        "next_gain": max(0.0, gain) * factor,
        "classes": sorted(classes, key=lambda row: (-row["gain"], row["label"])),
    }


def _gain(right: np.ndarray) -> tuple[float, list[float]]:
    """By the last doubling, with its interval: the same images before and after, bool [3, N]."""
    change = right[2].astype(float) - right[1]
    mean, half = float(change.mean()), Z95 * float(change.std()) / np.sqrt(len(change))
    return mean, [mean - half, mean + half]
