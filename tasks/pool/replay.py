"""Whether choosing pays: accuracy against the number of labels, chosen as `headstart next` chooses and at random.

Replayed on the images that a model was trained on, from stored features: training images are the pool, whose labels are
given as they are asked for; accuracy is that on the images of the other splits. The head is a logistic regression on
the principal components of the features, which takes a tenth of a second.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from tasks.config import Label
from tasks.display import Progress
from tasks.errors import UsageError
from tasks.pool.cut import CutModel
from tasks.pool.familiar import fit_familiar
from tasks.pool.neighbours import know
from tasks.pool.selection import Scores, choose, shares_of
from tasks.records import Run
from tasks.storage.digests import uniform
from tasks.storage.feature_store import load_features
from tasks.storage.snapshots import read_snapshot

METHODS = ("chosen", "random")
MOST_IMAGES = 20_000  # a random sample of more
COMPONENTS = 256
FITTED = 2048  # images that the components are found by
INVERSE_PENALTY = 10.0  # C of the logistic regression: the best of 1, 10, 100 and 1,000 on photographs of clothing
GROWTH = 1.3  # of the labels from one round to the next
FIRST_PER_CLASS, FIRST = 3, 50  # labels of the first round, which is random
TARGET_SHARES = (0.95, 0.98)  # of the accuracy with all labels


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Accuracy by method, float [S, R] over seeds and rounds; `labels` int [R] of each round; `full` with all."""

    labels: np.ndarray
    accuracy: dict[str, np.ndarray]
    full: float
    held_out: int

    def interval(self, method: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The mean accuracy of each round over the seeds, and its 95 % interval, float [R] each."""
        mean, low, high = np.transpose([interval_of_mean(column) for column in self.accuracy[method].T])
        return mean, low, high

    def needed(self, method: str, share: float) -> np.ndarray:
        """The labels after which the accuracy is `share` of that with all, for each seed, float [S]."""
        return np.array([_crossing(self.labels, row, share * self.full) for row in self.accuracy[method]])

    def ratio(self, share: float) -> tuple[float, float, float]:
        """Labels needed, chosen against random: the geometric mean over the seeds, and its 95 % interval."""
        ratios = np.log(self.needed("chosen", share) / self.needed("random", share))
        mean, low, high = np.exp(interval_of_mean(ratios))
        return float(mean), float(low), float(high)

    def as_dict(self) -> dict[str, Any]:
        """As `headstart replay --json` prints it."""
        curves = {method: np.transpose(self.interval(method)).round(4).tolist() for method in METHODS}
        targets = []
        for share in TARGET_SHARES:
            ratio = [round(end, 3) for end in self.ratio(share)]
            needed = {method: round(float(self.needed(method, share).mean())) for method in METHODS}
            targets.append({"share_of_full": share, "labels": needed, "ratio": ratio[0], "interval": ratio[1:]})
        seeds = len(self.accuracy["chosen"])
        found = {"full_accuracy": round(self.full, 4), "held_out": self.held_out, "seeds": seeds, "targets": targets}
        return {**found, "labels": self.labels.tolist(), "accuracy": curves}


@dataclass(frozen=True, kw_only=True)
class _Data:
    heads: np.ndarray  # what the head is trained on, float32 [N, K]
    likeness: np.ndarray  # the last layer's features, float16 [N, W]
    targets: np.ndarray  # int [N]
    pool: np.ndarray  # int [P]
    held_out: np.ndarray  # int [T]
    sha256s: pd.Series


def replay(run: Run, model: CutModel, seeds: int) -> Replay:
    """Replays the labelling of a model's images.

    Raises:
        UsageError: the model has too few images.
    """
    data = _read(run, model)
    first = max(FIRST, FIRST_PER_CLASS * len(model.labels))
    if len(data.pool) < 2 * first or len(data.held_out) == 0:
        raise UsageError(f"{run.name} has {len(data.pool)} training images; a replay takes at least {2 * first}")
    labels = [first]
    while labels[-1] * GROWTH < len(data.pool):
        labels.append(round(labels[-1] * GROWTH))
    labels.append(len(data.pool))
    with Progress("replay", len(METHODS) * seeds, "runs") as progress:
        accuracy: dict[str, np.ndarray] = {}
        for method in METHODS:
            rows = []
            for seed in range(seeds):
                rows.append(_accuracies(data, labels, method, seed, run.config.label))
                progress.advance()
            accuracy[method] = np.array(rows)
    full = float(np.mean([rows[:, -1].mean() for rows in accuracy.values()]))
    return Replay(labels=np.array(labels), accuracy=accuracy, full=full, held_out=len(data.held_out))


def interval_of_mean(values: np.ndarray) -> tuple[float, float, float]:
    """The mean of [S] values and its 95 % interval by Student's t; one value has no interval but itself."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean, mean
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def _read(run: Run, model: CutModel) -> _Data:
    table = read_snapshot(run.workspace, model.snapshot, ["sha256", "uri", "label", "split"])
    table = table.sort_values("sha256").head(MOST_IMAGES)  # digests are in no order
    known = know(run, model, table, table.iloc[:0]).table
    table = table[table["sha256"].isin(known["sha256"])].reset_index(drop=True)
    rows = load_features(run.workspace, model.key, table["sha256"].tolist(), 0)
    is_pool = (table["split"] == "train").to_numpy()
    return _Data(
        heads=_components(rows),
        likeness=rows[:, : model.last_width],
        targets=pd.Categorical(table["label"], categories=list(model.labels)).codes.astype(np.int64),
        pool=np.flatnonzero(is_pool),
        held_out=np.flatnonzero(~is_pool),
        sha256s=table["sha256"],
    )


def _components(rows: np.ndarray) -> np.ndarray:
    """The principal components of standardised features, float64 [N, K]. No label plays a part."""
    sample = rows[:FITTED].astype(np.float32)
    mean, scale = sample.mean(axis=0), (sample.std(axis=0) + 1e-6) * np.sqrt(rows.shape[1])
    sample = (sample - mean) / scale
    values, vectors = np.linalg.eigh(sample @ sample.T)
    kept = slice(None, -min(COMPONENTS, len(sample)) - 1, -1)
    axes = sample.T @ vectors[:, kept] / np.sqrt(np.maximum(values[kept], 1e-9))
    return np.concatenate(
        [
            (rows[start : start + FITTED].astype(np.float32) - mean) / scale @ axes
            for start in range(0, len(rows), FITTED)
        ]
    ).astype(np.float64)


def _accuracies(data: _Data, labels: list[int], method: str, seed: int, settings: Label) -> list[float]:
    """Accuracy after each round of one replay; both methods begin with the same random images."""
    rng = np.random.default_rng(seed)
    chance = uniform(data.sha256s, seed) / np.float64(2**64)
    labelled = rng.permutation(data.pool)[: labels[0]]
    found = []
    for count, following in zip(labels, [*labels[1:], 0], strict=True):
        head = _fit(data, labelled)
        found.append(float((head.predict(data.heads[data.held_out]) == data.targets[data.held_out]).mean()))
        if following:
            left = np.setdiff1d(data.pool, labelled)
            drawn = (
                rng.permutation(len(left))[: following - count]
                if method == "random"
                else _choose(data, head, labelled, left, chance, following - count, settings, rng)
            )
            labelled = np.concatenate([labelled, left[drawn]])
    return found


def _choose(
    data: _Data,
    head,
    labelled: np.ndarray,
    left: np.ndarray,
    chance: np.ndarray,
    count: int,
    settings: Label,
    rng: np.random.Generator,
) -> np.ndarray:
    """Places in `left`, chosen as `headstart next` does."""
    probabilities = head.predict_proba(data.heads[left])
    second, first = np.partition(probabilities, -2, axis=1)[:, -2:].T
    familiar = fit_familiar(data.likeness[labelled])
    place, rest = familiar.place(data.likeness[left])
    distance = familiar.distances(place, rest)
    scores = Scores(margin=first - second, distance=distance, place=place, chance=chance[left])
    shares = shares_of(count, settings.unfamiliar_share, settings.random_share)
    return np.array([image for image, _ in choose(scores, shares, rng)])


def _fit(data: _Data, rows: np.ndarray):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=INVERSE_PENALTY, max_iter=100).fit(data.heads[rows], data.targets[rows])


def _crossing(labels: np.ndarray, accuracy: np.ndarray, target: float) -> float:
    """The number of labels at which the accuracy reaches the target, interpolated.

    Of the nearest curve that never falls (isotonic regression): a lucky round is not taken for the rest.
    """
    from sklearn.isotonic import isotonic_regression

    rising = isotonic_regression(accuracy)
    if rising[-1] < target:
        return float(labels[-1])
    after = int(np.argmax(rising >= target))
    if after == 0:
        return float(labels[0])
    share = (target - rising[after - 1]) / (rising[after] - rising[after - 1])
    return float(labels[after - 1] + share * (labels[after] - labels[after - 1]))
