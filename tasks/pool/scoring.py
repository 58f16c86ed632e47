"""Scores a pool block by block: of any number of stored rows, only those that may be chosen stay in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd

from tasks.display import Progress
from tasks.modality.kinds import KINDS
from tasks.networks.onnx_session import available_cores
from tasks.pool.cut import CutModel, Head
from tasks.pool.familiar import Familiar
from tasks.pool.selection import POOLED, Scores, Shares
from tasks.storage.digests import uniform
from tasks.storage.feature_store import row_blocks_of
from tasks.workspace import Workspace

T = TypeVar("T")

SPARE = 2  # times as many candidates as are drawn from: some are taken for another reason, some are copies
BLOCK_ROWS = 512  # a block of more than 32 MB would be mapped anew each time, which costs as much as the work


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What a model predicts for images: the likeliest class of each, how likely it is, and how familiar the image."""

    label: np.ndarray  # index into the model's labels, int16 [N]
    probability: np.ndarray  # float32 [N]
    familiarity: np.ndarray  # float32 [N], NaN where the model does not say it


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The images of a pool that may be chosen.

    `images` are their numbers in the pool, int [M]; `probabilities` are float32 [M, C]; `features` float16 [M, W] those
    that show likeness.
    """

    images: np.ndarray
    probabilities: np.ndarray
    features: np.ndarray
    scores: Scores


def predict_pool(workspace: Workspace, model: CutModel, sha256s: Sequence[str]) -> Predicted:
    """Predictions from stored rows, which every image has."""
    head = Head(model)
    label, probability = np.zeros(len(sha256s), np.int16), np.zeros(len(sha256s), np.float32)
    familiarity = np.full(len(sha256s), np.nan, np.float32)
    for images, found in _scored(workspace, model, sha256s, "predict", lambda images, rows: head.predict(rows)):
        label[images] = found.probabilities.argmax(axis=1)
        probability[images] = found.probabilities.max(axis=1)
        if found.familiarity is not None:
            familiarity[images] = found.familiarity
    return Predicted(label=label, probability=probability, familiarity=familiarity)


def find_candidates(
    workspace: Workspace,
    model: CutModel,
    sha256s: Sequence[str],
    familiar: Familiar,
    shares: Shares,
    seed: int,
) -> Candidates:
    """The most uncertain images of a pool, those that are least like the labelled ones, and some at random.

    Args:
        sha256s: of the pool, each once; all of them have rows.
        familiar: fitted to the last layer's features of labelled images.
    """
    head = Head(model)
    chance = uniform(pd.Series(sha256s, dtype=object), seed) / np.float64(2**64)
    best = [
        _Best(SPARE * POOLED * shares.unsure),
        _Best(SPARE * POOLED * shares.unfamiliar),
        _Best(SPARE * POOLED * shares.random),
    ]

    def score(images: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        probabilities = head.probabilities(rows)
        features = rows[:, : model.last_width]
        inside, rest = familiar.place(features)
        distance = familiar.distances(inside, rest)
        second, first = np.partition(probabilities, -2, axis=1)[:, -2:].T
        return probabilities, first - second, distance, inside, chance[images], features

    for images, scored in _scored(workspace, model, sha256s, "choose", score):
        _, margin, distance, _, drawn, _ = scored
        for each, worth in zip(best, (-margin, distance, -drawn), strict=True):
            each.add(worth, (images, *scored))
    columns = _union([each.columns for each in best if each.columns])
    images, probabilities, margin, distance, place, drawn, features = columns
    scores = Scores(margin=margin, distance=distance, place=place, chance=drawn)
    return Candidates(images=images, probabilities=probabilities, features=features, scores=scores)


def _scored(
    workspace: Workspace,
    model: CutModel,
    sha256s: Sequence[str],
    what: str,
    work: Callable[[np.ndarray, np.ndarray], T],
) -> Iterator[tuple[np.ndarray, T]]:
    """(images, what `work` makes of them and their rows) of each block of a pool, on all cores."""
    blocks = (
        (images[start : start + BLOCK_ROWS], rows[start : start + BLOCK_ROWS])
        for images, rows in row_blocks_of(workspace, model.key, sha256s, np.float16)
        for start in range(0, len(images), BLOCK_ROWS)
    )
    ahead = available_cores()  # blocks in memory beside the ones that are worked on
    with Progress(what, len(sha256s), KINDS[model.task].items) as progress, ThreadPoolExecutor(ahead) as pool:
        waiting: deque[tuple[np.ndarray, Future[T]]] = deque()

        def oldest() -> tuple[np.ndarray, T]:
            images, scored = waiting.popleft()
            progress.advance(len(images))
            return images, scored.result()

        for images, rows in blocks:
            waiting.append((images, pool.submit(work, images, rows)))
            if len(waiting) > 2 * ahead:
                yield oldest()
        while waiting:
            yield oldest()


class _Best:
    """The rows of the highest worth so far, of parallel columns."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._worth = np.empty(0, np.float64)
        self.columns: tuple[np.ndarray, ...] = ()

    def add(self, worth: np.ndarray, columns: tuple[np.ndarray, ...]) -> None:
        if self._count == 0:
            return
        if len(self._worth) == self._count and (better := worth > self._worth.min()).sum() < len(worth):
            worth, columns = worth[better], tuple(column[better] for column in columns)
        self._worth = np.concatenate([self._worth, worth])
        both = zip(self.columns or columns, columns, strict=True)
        self.columns = tuple(np.concatenate([old, new]) if self.columns else new for old, new in both)
        if len(self._worth) > self._count:
            kept = np.argsort(-self._worth, kind="stable")[: self._count]
            self._worth, self.columns = self._worth[kept], tuple(column[kept] for column in self.columns)


def _union(parts: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """Each image once, by its number, which is the first column: so the order of the store plays no part."""
    columns = tuple(np.concatenate(each) for each in zip(*parts, strict=True))
    _, first = np.unique(columns[0], return_index=True)
    return tuple(column[first] for column in columns)
