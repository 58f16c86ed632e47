"""Predictions for held-out images: of the candidate, and of the champion that it is compared with.

A model's prediction for an image never changes. So those that the champion's own run recorded are read, and only new
images are predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as version_of

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks.errors import HeadstartError
from tasks.evaluate.classes import ClassChanges, class_changes
from tasks.modality.items import read_checked
from tasks.networks.classifier import Classifier, Prediction
from tasks.records import Head, Run
from tasks.storage.artifacts import Artifact
from tasks.storage.repository import MODEL, champion, read_manifest, read_model
from tasks.storage.tables import read_table

PREDICTING_WITH = ("onnxruntime", "pillow")  # what a prediction depends on, beside the file and the image


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The published model's predictions for this run's test images, in the current names of the classes.

    `predicted` has a label for each test image, null where the champion does not have the image's class; it and
    `changes` are None where the model can't be loaded.
    """

    version: int
    predicted: pd.Series | None = None
    changes: ClassChanges | None = None


def score(
    run: Run, classifier: Classifier, rows: pd.DataFrame, on_image: Callable[[], None] = lambda: None
) -> Prediction:
    """The predictions from the original bytes of each row's image, as of one batch."""
    reads = [partial(read_checked, uri, sha256) for uri, sha256 in zip(rows["uri"], rows["sha256"], strict=True)]
    found = []
    for prediction in classifier.classify_all(
        reads, workers=run.config.extract.workers, max_pixels=run.config.ingest.max_pixels
    ):
        found.append(prediction)
        on_image()
    if not found:
        return Prediction(np.zeros((0, len(classifier.labels)), np.float32), None)
    familiarity = [each.familiarity for each in found if each.familiarity is not None]
    return Prediction(np.stack([each.probabilities for each in found]), np.stack(familiarity) if familiarity else None)


def validation_probabilities(run: Run, head: Head, sha256s: pd.Series, classes: int) -> np.ndarray:
    """Probabilities of the validation images, float32 [V, C], from the logits at the end of the training."""
    from scipy.special import softmax

    table = read_table(run.workspace, head.validation_path).set_index("sha256")
    logits = np.array(table.loc[sha256s, "logits"].to_list(), np.float32).reshape(-1, classes)
    return softmax(logits / head.temperature, axis=1)


def champion_predictions(run: Run, test: pd.DataFrame, labels: tuple[str, ...], below: int) -> Champion | None:
    """The champion (the newest version below the candidate's) on the test images whose class it has; None without a
    champion."""
    version = champion(run.workspace, run.name, below)
    if version is None:
        return None
    try:
        classifier = Classifier.of_version(read_model(run.workspace, run.name, version))
    except HeadstartError:
        return Champion(version=version)  # missing evidence, which the champion's gate refuses
    rename = run.config.validation.rename
    changes = class_changes(classifier.labels, labels, rename)
    known = test[test["label"].isin(changes.shared)]
    predicted = known["sha256"].map(_recorded(run, version)).astype(object)
    new = known[predicted.isna()]
    predicted[new.index] = np.array(classifier.labels, object)[score(run, classifier, new).probabilities.argmax(axis=1)]
    return Champion(version=version, predicted=predicted.replace(rename).reindex(test.index), changes=changes)


def _recorded(run: Run, version: int) -> dict[str, str]:
    """The label that the evaluation of a version recorded for each test image, by digest.

    Empty where that artifact was removed, belongs to another file, or was made with other libraries.
    """
    manifest = read_manifest(run.workspace, run.name, version)
    try:
        used = manifest["lineage"]["libraries"]
        folder = manifest["lineage"]["artifacts"]["evaluate"]
        artifact = Artifact(run.workspace, *folder.split("/")[1:])
        judged = run.workspace.read_json(artifact.path("decision.json"))["candidate"]["sha256"]
        same = judged == manifest["files"][MODEL]
        if (
            not same
            or any(used[library] != version_of(library) for library in PREDICTING_WITH)
            or artifact.read() is None
        ):
            return {}
        rows = read_table(run.workspace, artifact.path("predictions.parquet"), ["sha256", "split", "predicted"])
    except (HeadstartError, pa.ArrowException, KeyError):
        return {}
    test = rows[rows["split"] == "test"]
    return dict(zip(test["sha256"], test["predicted"], strict=True))
