"""How like the labelled images an image is, by its features, at a cost that does not grow with the features' width.

The directions in which labelled images differ most span a small space (principal components). The squared distance of
two images is that within the space and, in place of the rest, the squared length of what the space leaves of the new
one: small for what resembles the labelled images, large for what has nothing in common with them (as the residual of
Wang et al. 2022, "ViM: Out-Of-Distribution with Virtual-logit Matching").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.utils.extmath import randomized_svd

DIMENSIONS = 64
SHORTEST = 1e-6  # length by which a row is divided
FITTED = 2048  # labelled images that it is fitted to and compared with: a random sample of more


@dataclass(frozen=True)
class Familiar:
    """A space fitted to labelled images."""

    centre: np.ndarray  # float32 [D]
    axes: np.ndarray  # float32 [D, K]
    known: np.ndarray  # float32 [L, K], the labelled images in it

    def place(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where images are in the space, float32 [N, K], and the squared length of what it leaves of each, [N].

        Args:
            rows: features, any float [N, D].
        """
        rows = rows.astype(np.float32, copy=False)
        lengths = np.maximum(np.sqrt(np.einsum("nd,nd->n", rows, rows)), SHORTEST)[:, None]
        # One product for both, and no copy of the rows as wide as they are.
        along = rows @ np.concatenate([self.axes, self.centre[:, None]], axis=1) / lengths
        inside = along[:, :-1] - self.centre @ self.axes
        squared = 1 - 2 * along[:, -1] + self.centre @ self.centre  # of the unit row from the centre
        return inside, np.maximum(squared - np.einsum("nk,nk->n", inside, inside), 0)

    def distances(self, inside: np.ndarray, rest: np.ndarray) -> np.ndarray:
        """Squared distance of each image, as `place` gives it, to the nearest labelled one, float32 [N]."""
        return squared_distances(inside, self.known).min(axis=1) + rest


def fit_familiar(rows: np.ndarray) -> Familiar:
    """Fits the space to features of labelled images, any float [L, D]; L is at least 1."""
    unit = _unit(rows)
    centre = unit.mean(axis=0)
    centred = unit - centre
    count = min(DIMENSIONS, *centred.shape)
    _, _, directions = randomized_svd(centred, count, random_state=0)  # Halko et al. 2011; a tenth of the time of all
    axes = np.ascontiguousarray(directions.T, np.float32)
    return Familiar(centre, axes, centred @ axes)


def squared_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Between the rows of [N, K] and [M, K]: float32 [N, M]."""
    lengths = np.einsum("nk,nk->n", one, one)[:, None] + np.einsum("mk,mk->m", other, other)
    return np.maximum(lengths - 2 * (one @ other.T), 0)


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float32, copy=False)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), SHORTEST)
