"""Drift within classes: do new images differ from the champion's images of the same classes?

The champion's images are weighted so that their label mix is that of the new images; so a delivery of one class, or one
that was chosen, differs only if its images look different. What chance does is measured by permutations: within each
class they draw anew which images count as the new ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

# A class with fewer images in the champion's snapshot is left out.
MIN_CLASS_IMAGES = 10
# Effective size of the smallest sample: at 30, chance moves a Kolmogorov-Smirnov distance beyond 0.3 in 1 % of samples.
MIN_EFFECTIVE_IMAGES = 30
# Bounds the cost: a kernel of at most 1,250 x 1,250 images.
MAX_NEW_IMAGES = 250
OLD_FOR_EACH_NEW = 4
PERMUTATIONS = 999


@dataclass(frozen=True)
class Sample:
    """The images that are compared.

    Attributes:
        old: rows of the champion's images, int [N].
        new: rows of the new images, int [M].
        classes: of all of them, old images first, int [N + M].
        weights: float [1 + PERMUTATIONS, N + M], old images first. The first row is as it is: it adds up to 1 over the
            new images, to -1 over the old ones, and to 0 over each class. The others are permuted within classes.
    """

    old: np.ndarray
    new: np.ndarray
    classes: np.ndarray
    weights: np.ndarray


def draw_sample(old_labels: pd.Series, new_labels: pd.Series) -> Sample | None:
    """Draws at most 250 new images, and for each at most four of the champion's images of its class.

    Classes are left out of which the champion has fewer than 10 images. The same labels give the same draw.

    Args:
        old_labels: of the champion's images, [N].
        new_labels: of the new images, [M].

    Returns:
        None where the images are too few: their effective number 1 / sum(weight ** 2) is below 30. That takes 38 new
        images with four old ones each.
    """
    rng = np.random.default_rng(0)
    sizes = old_labels.value_counts()
    comparable = new_labels.isin(sizes.index[sizes >= MIN_CLASS_IMAGES]).to_numpy()
    new = np.sort(rng.permutation(np.flatnonzero(comparable))[:MAX_NEW_IMAGES])
    old_parts, old_weights = [np.empty(0, int)], [np.empty(0)]
    for label, count in new_labels.iloc[new].value_counts().sort_index().items():
        rows = np.flatnonzero(old_labels == label)
        rows = np.sort(rng.permutation(rows)[: OLD_FOR_EACH_NEW * count])
        old_parts.append(rows)
        old_weights.append(np.full(len(rows), -count / len(new) / len(rows)))
    old = np.concatenate(old_parts)
    weights = np.concatenate([*old_weights, np.full(len(new), 1 / max(len(new), 1))])
    if len(new) == 0 or 1 / np.sum(weights**2) < MIN_EFFECTIVE_IMAGES:
        return None
    classes = pd.factorize(np.concatenate([old_labels.iloc[old], new_labels.iloc[new]]))[0]
    return Sample(old, new, classes, _permuted(weights, classes, rng))


def _permuted(weights: np.ndarray, classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The weights [N], and below them permutations of them within each class, float [1 + PERMUTATIONS, N]."""
    rows = np.tile(weights, (1 + PERMUTATIONS, 1))
    for one in range(classes.max() + 1):
        members = np.flatnonzero(classes == one)
        rows[1:, members] = rng.permuted(rows[1:, members], axis=1)
    return rows


def property_drift(old: pd.Series, new: pd.Series, sample: Sample) -> tuple[float, float] | None:
    """The Kolmogorov-Smirnov distance of one property of the images within classes, 0 (equal) to 1, and its p-value.

    It is that of the images' ranks within their classes, so classes that look different hide nothing.

    Args:
        old, new: the property of all images, of which `sample` has the rows.

    Returns:
        None where an image does not have the property.
    """
    values = np.concatenate([old.iloc[sample.old], new.iloc[sample.new]]).astype(float)
    if np.isnan(values).any():
        return None
    ranks = pd.Series(values).groupby(sample.classes).rank(pct=True).to_numpy()
    order = np.argsort(ranks, kind="stable")
    last_of_ties = np.append(np.diff(ranks[order]) != 0, True)
    differences = np.cumsum(sample.weights[:, order], axis=1)[:, last_of_ties]
    distances = np.abs(differences).max(axis=1)
    return float(distances[0]), _p_value(distances)


def embedding_p_value(features: np.ndarray, sample: Sample) -> float:
    """The p-value for new and old images' features coming from one distribution within classes; at least 0.001.

    A permutation test of the maximum mean discrepancy with a Gaussian kernel of median width (Gretton et al. 2012, "A
    Kernel Two-Sample Test").

    Args:
        features: of the sample's images, old ones first, [N + M, D].
    """
    from sklearn.metrics.pairwise import euclidean_distances

    squared = euclidean_distances(features.astype(np.float32), squared=True)
    kernel = np.exp(-squared / max(float(np.median(squared)), 1e-12)).astype(np.float64)
    return _p_value(np.einsum("pi,pi->p", sample.weights @ kernel, sample.weights))


def _p_value(statistics: np.ndarray) -> float:
    """The share of statistics that are at least the first, which is one of them."""
    return float((statistics >= statistics[0] - 1e-12).mean())
