"""How much an image resembles what a model was trained on, from its features and its logits: a number in 0..1.

The sum of three scores, each divided by its spread over held-out images:

- the relative Mahalanobis distance (Ren et al. 2021, "A Simple Fix to Mahalanobis Distance for Improving Near-OOD
  Detection"): the squared distance to the nearest class, less that to the mean of all images, in the space of the
  directions in which the training images differ most;
- the largest logit (Hendrycks et al. 2022, "Scaling Out-of-Distribution Detection for Real-World Settings");
- the share of an image's variation that the space leaves out (as the residual of Wang et al. 2022, "ViM:
  Out-Of-Distribution with Virtual-logit Matching").

A logistic curve makes a share of it: 0.5 at the threshold, below which lie as many of the held-out images as may be
called unfamiliar, and 0.95 at their median.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tasks.networks.onnx_graph import check
from tasks.networks.outputs import FAMILIARITY
from tasks.networks.rooted import layer_scales, rooted

AT_THE_MEDIAN = 0.95
POWER_ITERATIONS = 2
DIMENSIONS = 256  # 128 tell unknown classes worse by 0.013 (AUROC), and cost 1 to 2 % less latency
SHRINKAGE = 0.1  # of a covariance towards equal variances
DISTANCE_WEIGHT = 2.0  # of the distance, where that of the logit is 1
# Of few or equal held-out images the spreads are 0, or what rounding makes of that.
LEAST_SPREADS = (1.0, 0.1, 0.01)  # of the distance, the logit and the share that is left out
LEAST_GAP = 0.1  # between the median and the threshold, in spreads
SMALLEST = 1e-9
FITTED = 2048  # training images that it is fitted to, and held-out ones of its threshold: random samples of more


@dataclass(frozen=True, kw_only=True)
class Space:
    """Where an image lies among the training images: principal components of its rooted and scaled features."""

    scale: np.ndarray  # float32 [D]
    centre: np.ndarray  # float32 [D]
    axes: np.ndarray  # float16 [D, K], as they ship

    def place(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places float32 [N, K], and the share of each image's variation that is left out, float32 [N].

        Args:
            rows: features, any float [N, D].
        """
        values = rooted(rows) * self.scale - self.centre
        places = values @ self.axes.astype(np.float32)
        return places, left_out(places, np.einsum("nd,nd->n", values, values))


@dataclass(frozen=True, kw_only=True)
class Distances:
    """The relative Mahalanobis distance as the sum of a quadratic form and the least of some linear ones.

    The squared distances to a class and to the mean of all images are both quadratic in the place of an image, with the
    same second-order term for all classes; so their difference is.
    """

    curvature: np.ndarray  # float32 [K, K]
    slopes: np.ndarray  # float32 [K, C]
    constants: np.ndarray  # float32 [C]

    def relative(self, places: np.ndarray) -> np.ndarray:
        """The relative distance of each image, float32 [N], at places float32 [N, K]."""
        quadratic = np.einsum("nk,nk->n", places @ self.curvature, places)
        return quadratic + (places @ self.slopes + self.constants).min(axis=1)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What the three scores count, and what is added, so that the sum is 0 at the threshold."""

    distance: float
    logit: float
    left_out: float
    bias: float

    def score(self, distance: np.ndarray, logit: np.ndarray, left_out: np.ndarray) -> np.ndarray:
        return self.distance * distance + self.logit * logit + self.left_out * left_out + self.bias


@dataclass(frozen=True, kw_only=True)
class Familiarity:
    """Fitted to the training images of a model."""

    space: Space
    distances: Distances
    weights: Weights

    def of(self, rows: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Float32 [N] in 0..1; at least 0.5 means familiar.

        Args:
            rows: features, any float [N, D].
            logits: float [N, C], before the temperature.
        """
        from scipy.special import expit

        places, rest = self.space.place(rows)
        score = self.weights.score(self.distances.relative(places), logits.max(axis=1), rest)
        return expit(score).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Of a familiarity what depends on no head, so that it is fitted while the head is trained."""

    space: Space
    distances: Distances
    held_out_distance: np.ndarray  # float32 [V], of the held-out images
    held_out_rest: np.ndarray  # float32 [V], the share of each one's variation that the space leaves out

    def save(self) -> bytes:
        """The arrays as an .npz."""
        parts = (self.space, self.distances)
        arrays = {name: values for part in parts for name, values in vars(part).items()}
        held_out = {"held_out_distance": self.held_out_distance, "held_out_rest": self.held_out_rest}
        np.savez(content := io.BytesIO(), allow_pickle=False, **arrays, **held_out)
        return content.getvalue()

    @classmethod
    def load(cls, content: bytes) -> Basis:
        """What `save` gave."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = dict(arrays)
        space, distances = (
            {field.name: found.pop(field.name) for field in fields(part)} for part in (Space, Distances)
        )
        return cls(space=Space(**space), distances=Distances(**distances), **found)

    def with_logits(self, logits: np.ndarray, coverage: float) -> Familiarity:
        """The familiarity of a head.

        Args:
            logits: float [V, C], of the held-out images.
            coverage: the share of held-out images that are familiar.
        """
        weights = fit_weights(self.held_out_distance, logits.max(axis=1), self.held_out_rest, coverage)
        return Familiarity(space=self.space, distances=self.distances, weights=weights)


def fit_basis(rows: np.ndarray, targets: np.ndarray, held_out: np.ndarray, widths: Sequence[int] = ()) -> Basis:
    """Fits it to features of training images.

    Args:
        rows: any float [T, D].
        targets: int [T], classes from 0; a class without an image is never the nearest.
        held_out: any float [V, D], of images for the threshold; V is at least 1.
        widths: the numbers of features of each layer, which sum to D; empty where they are of one layer.
    """
    space = _fit_space(rows, widths)
    distances = fit_distances(space.place(rows)[0], targets)
    places, rest = space.place(held_out)
    return Basis(space=space, distances=distances, held_out_distance=distances.relative(places), held_out_rest=rest)


def dimensions(images: int, width: int) -> int:
    """How many principal components of so many images are used."""
    return max(min(DIMENSIONS, images // 2, width), 1)


def fit_distances(places: np.ndarray, targets: np.ndarray) -> Distances:
    """The statistics of classes, from places float32 [T, K] of their images, whose mean is 0."""
    classes, index = np.unique(targets, return_inverse=True)
    means = np.stack([places[targets == each].mean(axis=0) for each in classes]).astype(np.float64)
    within = _precision(places - means[index])
    return Distances(
        curvature=(within - _precision(places)).astype(np.float32),
        slopes=(-2 * within @ means.T).astype(np.float32),
        constants=np.einsum("ck,ck->c", means @ within, means).astype(np.float32),
    )


def fit_weights(distance: np.ndarray, logit: np.ndarray, left_out: np.ndarray, coverage: float) -> Weights:
    """Weights from the scores of held-out images, float [V] each.

    The threshold is the conformal quantile (Vovk et al. 2005): of V held-out images, the k-th smallest sum, where k is
    the share (1 - coverage) of V + 1, rounded down, and at least the smallest.
    """
    scores = zip((distance, logit, left_out), (-DISTANCE_WEIGHT, 1.0, -1.0), LEAST_SPREADS, strict=True)
    plain = [sign / max(float(each.std()), least) for each, sign, least in scores]
    sums = np.sort(plain[0] * distance + plain[1] * logit + plain[2] * left_out)
    threshold = float(sums[max(math.floor((1 - coverage) * (len(sums) + 1)), 1) - 1])
    slope = math.log(AT_THE_MEDIAN / (1 - AT_THE_MEDIAN)) / max(float(np.median(sums)) - threshold, LEAST_GAP)
    by_distance, by_logit, by_rest = (slope * each for each in plain)
    return Weights(distance=by_distance, logit=by_logit, left_out=by_rest, bias=-slope * threshold)


def scaling(rows: np.ndarray, widths: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rooted features float32 [T, D], their mean [D], and the scale of each [D]; `widths` as `fit_basis`."""
    values = rooted(rows)
    scale = layer_scales(values.var(axis=0, dtype=np.float64), widths).astype(np.float32)
    return values, values.mean(axis=0), scale


def left_out(places: np.ndarray, variation: np.ndarray) -> np.ndarray:
    """The share of each image's variation, float [N], that its place in a space, float [N, K], leaves out."""
    return 1 - np.einsum("nk,nk->n", places, places) / np.maximum(variation, SMALLEST)


def attach(model: onnx.ModelProto, familiarity: Familiarity, source: str) -> onnx.ModelProto:
    """Adds the output `familiarity` float32 [N] to a graph that has the values `logits` and `source`.

    The curvature's own axes are folded into those of the space, so that it is a weight for each.

    Args:
        source: `features` float32 [N, D], or `activations` float32 [N, h, w, D], whose mean over space is taken.
    """
    space, distances, weights = familiarity.space, familiarity.distances, familiarity.weights
    curvature, turned = np.linalg.eigh(distances.curvature.astype(np.float64))
    constants: dict[str, tuple[np.ndarray, type]] = {
        "scale": (space.scale, np.float32),
        "centre": (space.centre, np.float32),
        "axes": (space.axes.astype(np.float64) @ turned, np.float16),
        "curvature": (weights.distance * curvature[:, None], np.float32),
        "slopes": (weights.distance * turned.T @ distances.slopes, np.float32),
        # 1 is the share that would be left out of an image with no place.
        "constants": (weights.distance * distances.constants + weights.bias + weights.left_out, np.float32),
        "logit": (np.array(weights.logit), np.float32),
        "inside": (np.array(-weights.left_out), np.float32),
        "smallest": (np.array(SMALLEST), np.float32),
        "last": (np.array([1]), np.int64),
        "over_space": (np.array([1, 2]), np.int64),
    }
    nodes, rows = [], source
    if source == "activations":
        nodes, rows = [_node("ReduceMean", [source, "over_space"], "pooled", keepdims=0)], "pooled"
    nodes += [
        _node("Sign", [rows], "sign"),
        _node("Abs", [rows], "size"),
        _node("Sqrt", ["size"], "root"),
        _node("Mul", ["sign", "root"], "rooted"),
        _node("Mul", ["rooted", "scale"], "scaled"),
        _node("Sub", ["scaled", "centre"], "centred"),
        _node("Cast", ["axes"], "axes32", to=TensorProto.FLOAT),
        _node("MatMul", ["centred", "axes32"], "place"),
        _node("Mul", ["place", "place"], "squares"),
        _node("MatMul", ["squares", "curvature"], "quadratic"),
        _node("Gemm", ["place", "slopes", "constants"], "to_classes"),
        # The weight of a distance is negative, so the nearest class has the largest value.
        _node("ReduceMax", ["to_classes", "last"], "to_nearest"),
        _node("Add", ["quadratic", "to_nearest"], "by_distance"),
        _node("ReduceMax", ["logits", "last"], "largest"),
        _node("Mul", ["largest", "logit"], "by_logit"),
        _node("Add", ["by_distance", "by_logit"], "two"),
        _node("ReduceSumSquare", ["centred", "last"], "variation"),
        _node("Max", ["variation", "smallest"], "positive"),
        _node("ReduceSum", ["squares", "last"], "within"),
        _node("Div", ["within", "positive"], "share_within"),
        _node("Mul", ["share_within", "inside"], "by_share"),
        _node("Add", ["two", "by_share"], "score"),
        _node("Sigmoid", ["score"], "share"),
        _node("Squeeze", ["share", "last"], FAMILIARITY),
    ]
    used = {name for node in nodes for name in node.input}
    tensors = {_named(name): value.astype(dtype) for name, (value, dtype) in constants.items()}
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(tensors[name], name) for name in tensors if name in used)
    model.graph.output.append(helper.make_tensor_value_info(FAMILIARITY, TensorProto.FLOAT, ["N"]))
    return check(model)


def _fit_space(rows: np.ndarray, widths: Sequence[int]) -> Space:
    from sklearn.utils.extmath import randomized_svd  # half a second, which a run with nothing new does not need

    values, mean, scale = scaling(rows, widths)
    values -= mean
    values *= scale
    count = dimensions(*values.shape)
    # Halko et al. 2011. More power iterations find 0.5 % more of the variation, and told strangers no better.
    iterations: Any = POWER_ITERATIONS  # its default, "auto", is all that a type checker sees
    _, _, directions = randomized_svd(values, count, n_iter=iterations, random_state=0)
    return Space(scale=scale, centre=mean * scale, axes=directions.T.astype(np.float16))


def _precision(centred: np.ndarray) -> np.ndarray:
    """The inverse of the shrunk covariance of rows, float64 [K, K]."""
    covariance = (centred.T @ centred).astype(np.float64) / len(centred)
    size = len(covariance)
    equal = np.trace(covariance) / size + 1e-12
    return np.linalg.inv((1 - SHRINKAGE) * covariance + SHRINKAGE * equal * np.eye(size))


def _node(operation: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    """A node whose values are named after the output, but for those of the rest of the graph."""
    return helper.make_node(operation, [_named(each) for each in inputs], [_named(output)], **attributes)


def _named(value: str) -> str:
    return value if value in ("logits", "features", "activations", FAMILIARITY) else f"{FAMILIARITY}/{value}"
