"""Signed square roots of features, and the scales that make the layers of a network count alike.

The square root reduces the few strong channels of average-pooled activations (power normalisation, Perronnin et al.
2010, "Improving the Fisher Kernel for Large-Scale Image Classification").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def rooted(rows: np.ndarray) -> np.ndarray:
    """The signed square root of each feature, float32 [N, D], of any float [N, D]."""
    values = rows.astype(np.float32)
    roots = np.abs(values)
    np.sqrt(roots, out=roots)
    return np.copysign(roots, values, out=roots)


def layer_scales(variance: np.ndarray, widths: Sequence[int] = ()) -> np.ndarray:
    """The scale of each feature, float64 [D]: one for each layer, under which all layers have the same variance in sum,
    and a feature of the first layer has a variance of 1 in the mean.

    Separate scales for features would amplify those that are nearly constant.

    Args:
        variance: of each feature, float64 [D].
        widths: the numbers of features of each layer, which sum to D; empty where they are of one layer.
    """
    widths = widths or (len(variance),)
    sums = [layer.sum() + 1e-12 for layer in np.split(variance, np.cumsum(widths)[:-1])]
    return np.repeat(np.sqrt(widths[0] / np.array(sums)), widths)
