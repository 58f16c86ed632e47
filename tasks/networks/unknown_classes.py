"""How well familiarity tells images of a class that a model does not know: each class in turn is left out.

Without a class all is fitted anew: the space, the statistics of the others, and a linear classifier (ridge regression)
in place of the head. The principal components come from the products of all pairs of rows, which are made once: they
cost milliseconds a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.networks.familiarity import dimensions, fit_distances, fit_weights, left_out, scaling
from tasks.networks.rooted import rooted

LEFT_OUT = 10  # classes that are left out, one after the other: the largest
FITTED = 600  # training images; 1,024 gave the same AUROC to 0.01 in three times the time
MIN_CLASSES = 3  # of one class that is left, none is the nearest
MIN_IMAGES = 5  # of a class that is left out, and held out of the others
RIDGE = 0.1  # times the mean variance


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """The area under the ROC curve (AUROC) between images of classes that were left out and held-out images of others:
    the chance that the unknown one of two such images is the less familiar. 0.5 is a guess, 1 is perfect.

    `auroc` is the mean over classes, `interval` the mean's at 95 %; `by_probability` is that of the highest probability
    in place of the familiarity.
    """

    auroc: float
    interval: tuple[float, float]
    by_probability: float
    classes: dict[str, float]  # by the label that was left out
    images: int  # of unknown classes


def leave_classes_out(
    rows: np.ndarray,
    targets: np.ndarray,
    held_out: np.ndarray,
    held_out_targets: np.ndarray,
    labels: Sequence[str],
    widths: Sequence[int] = (),
) -> Unknown | None:
    """Leaves out up to ten classes; None where there are too few classes or images.

    Args:
        rows: features of training images, any float [T, D].
        targets: int [T], indices into `labels`.
        held_out: features of held-out images, any float [V, D].
        held_out_targets: int [V].
        widths: as `tasks.networks.familiarity.fit_basis`.
    """
    counts = np.bincount(targets, minlength=len(labels))
    chosen = [int(each) for each in np.argsort(-counts, kind="stable")[:LEFT_OUT] if counts[each] >= MIN_IMAGES]
    known = [int((held_out_targets != each).sum()) for each in chosen]
    if (counts > 0).sum() < MIN_CLASSES or not chosen or min(known) < MIN_IMAGES:
        return None
    values = _scaled(rows, held_out, widths)
    products = values @ values[: len(rows)].T
    found = [_left_out(each, values, products, targets, held_out_targets) for each in chosen]
    auroc, by_probability = np.array(found).T
    mean, error = float(auroc.mean()), float(auroc.std(ddof=1) / np.sqrt(len(auroc))) if len(auroc) > 1 else 1.0
    return Unknown(
        auroc=mean,
        interval=(max(mean - 1.96 * error, 0.0), min(mean + 1.96 * error, 1.0)),
        by_probability=float(by_probability.mean()),
        classes={labels[each]: float(value) for each, value in zip(chosen, auroc, strict=True)},
        images=int(counts[chosen].sum() + np.isin(held_out_targets, chosen).sum()),
    )


def _scaled(rows: np.ndarray, held_out: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """Rooted and scaled features of both, float32 [T + V, D]."""
    values, mean, scale = scaling(rows, widths)
    return (np.concatenate([values, rooted(held_out)]) - mean) * scale


def _left_out(
    unknown: int, values: np.ndarray, products: np.ndarray, targets: np.ndarray, held_out_targets: np.ndarray
) -> tuple[float, float]:
    """The AUROC for one class, by the familiarity and by the highest probability."""
    from scipy.special import softmax
    from sklearn.metrics import roc_auc_score

    known = np.flatnonzero(targets != unknown)
    places = _places(products, known)
    distances = fit_distances(places[known], targets[known])
    linear = _linear(places[known], targets[known])
    everything = np.concatenate([targets, held_out_targets])
    judged = np.concatenate([np.flatnonzero(targets == unknown), np.arange(len(targets), len(everything))])
    familiar = everything[judged] != unknown
    logits = places[judged] @ linear
    variation = np.square(values[judged] - values[known].mean(axis=0)).sum(axis=1)
    scores = distances.relative(places[judged]), logits.max(axis=1), left_out(places[judged], variation)
    weights = fit_weights(*(score[familiar] for score in scores), coverage=0.95)
    probability = softmax(logits / logits.std(), axis=1).max(axis=1)
    return float(roc_auc_score(familiar, weights.score(*scores))), float(roc_auc_score(familiar, probability))


def _places(products: np.ndarray, known: np.ndarray) -> np.ndarray:
    """All rows in the principal components of the known ones (kernel PCA with a linear kernel, Schölkopf et al. 1998),
    float32 [T + V, K]."""
    among = products[:, known]
    mean = among[known].mean(axis=0)
    centred = among - mean - among.mean(axis=1, keepdims=True) + mean.mean()
    values, vectors = np.linalg.eigh(centred[known].astype(np.float64))
    count = dimensions(len(known), len(known))
    values, vectors = values[-count:], vectors[:, -count:]
    return centred @ (vectors / np.sqrt(np.maximum(values, 1e-9 * values[-1]))).astype(np.float32)


def _linear(places: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """A linear classifier on places [N, K]: float32 [K, C]."""
    classes = np.unique(targets)
    wanted = (targets[:, None] == classes) - 1 / len(classes)
    ridge = RIDGE * np.square(places).sum() / places.shape[1]
    squares = places.T @ places + ridge * np.eye(places.shape[1])
    return np.linalg.solve(squares, places.T @ wanted).astype(np.float32)
