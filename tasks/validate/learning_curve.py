"""The learning curve: whether more labels would help, and of which class.

It compares simple classifiers trained on one, two and four fifths of the images, each evaluated on images that it did
not see. It describes the data and the stored features, not the trained head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

DOUBLINGS = (1, 2, 4)  # training folds; the evaluated fold is another one
Z95 = 1.96


def learning_curve(logits: np.ndarray, targets: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """The accuracy after each doubling of the images, the gains of the last doubling, and an estimate of the next gain.

    The curve's gain is assumed to shrink by the same factor with each doubling: the next gain is the last one times
    that factor, which is clipped to 0..1.

    Args:
        logits: float [3, N, C], of classifiers trained on the numbers of folds in `DOUBLINGS`.
        targets: int [N].

    Returns:
        `{"points": [{"images", "accuracy"}], "gain", "gain_interval", "next_gain", "classes": [{"label", "images",
        "recall", "gain", "gain_interval"}]}`, the classes sorted by gain. Gains are the last doubling's, in accuracy
        or recall, with intervals at 95 %.
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
    """The gain of the last doubling and its interval, on paired images; `right` is bool [3, N]."""
    change = right[2].astype(float) - right[1]
    mean, half = float(change.mean()), Z95 * float(change.std()) / np.sqrt(len(change))
    return mean, [mean - half, mean + half]
