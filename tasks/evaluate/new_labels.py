"""Images that arrived since the champion was trained, and their labels against what it predicts for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tasks.evaluate.classes import class_changes, current_names
from tasks.evaluate.comparison import NORMAL
from tasks.evaluate.predictions import score
from tasks.networks.classifier import Classifier
from tasks.records import Run, Snapshot
from tasks.storage.repository import read_manifest, read_model
from tasks.storage.snapshots import read_snapshot


@dataclass(frozen=True, kw_only=True)
class Since:
    """A snapshot beside the one that the champion was trained from; the index of each table is the digest."""

    manifest: dict[str, Any]  # the champion's
    past: pd.DataFrame  # column label: all images of its snapshot
    table: pd.DataFrame  # all images of the snapshot
    shared: pd.DataFrame  # of these, those of the classes that both have

    @property
    def arrived(self) -> pd.DataFrame:
        """The images that the champion never saw, and on which no file is compared: none of the test split."""
        return self.shared[~self.shared.index.isin(self.past.index) & (self.shared["split"] != "test")]


@dataclass(frozen=True, kw_only=True)
class NewLabels:
    """The labels of the new images against what the champion expects of itself there.

    `expected` is the mean of its own probabilities: images that were chosen because it is unsure of them lower that,
    wrong labels don't.
    """

    n: int
    accuracy: float
    expected: float
    contradict: bool

    def sentence(self) -> str:
        """Where they contradict."""
        return (
            f"the labels of the {self.n} new images contradict the champion ({self.accuracy:.1%} right where "
            f"{self.expected:.1%} were expected)"
        )


def since(run: Run, version: int, snapshot: Snapshot) -> Since:
    """What changed in the data since a version of the model."""
    manifest = read_manifest(run.workspace, run.name, version)
    table = read_snapshot(run.workspace, snapshot.id).set_index("sha256")
    past = read_snapshot(run.workspace, manifest["lineage"]["snapshot"], ["sha256", "label"]).set_index("sha256")
    changes = class_changes(manifest["labels"], snapshot.labels, run.config.validation.rename)
    return Since(manifest=manifest, past=past, table=table, shared=table[table["label"].isin(changes.shared)])


def ask_champion(
    run: Run, version: int, arrived: pd.DataFrame, confidence: float, calibration_error: float
) -> tuple[NewLabels, pd.Series]:
    """What the champion's file predicts for images that it never saw, in the current names of the classes, and whether
    their labels contradict it.

    Args:
        arrived: columns label, uri; the index is the digest.
    """
    classifier = Classifier.of_version(read_model(run.workspace, run.name, version))
    probabilities = score(run, classifier, arrived.reset_index()).probabilities
    names = np.array(current_names(classifier.labels, run.config.validation.rename), object)
    predicted = pd.Series(names[probabilities.argmax(axis=1)], arrived.index)
    right = (predicted == arrived["label"]).to_numpy()
    return judge_new_labels(probabilities.max(axis=1), right, confidence, calibration_error), predicted


def judge_new_labels(
    probabilities: np.ndarray, right: np.ndarray, confidence: float, calibration_error: float
) -> NewLabels:
    """Whether the labels of new images contradict the champion.

    They do where it is right significantly less often than its probabilities say, by more than they may be wrong.

    Args:
        probabilities: of the labels that it predicts, float [N].
        right: whether they are the given ones, bool [N].
        confidence: one-sided.
        calibration_error: what the probabilities may be wrong by.
    """
    short = float(probabilities.sum() - right.sum()) - calibration_error * len(right)
    error = math.sqrt(float((probabilities * (1 - probabilities)).sum()) + 1e-9)
    return NewLabels(
        n=len(right),
        accuracy=float(right.mean()) if len(right) else float("nan"),
        expected=float(probabilities.mean()) if len(right) else float("nan"),
        contradict=bool(short > NORMAL.inv_cdf(confidence) * error),
    )
