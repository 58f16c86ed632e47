"""The evaluation stage: the candidate's file, over validation and test, from the original image bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks.artifacts import GateDecision, GateResult, HeadRef, ModelRef, Run, SnapshotRef, TrunkRef
from tasks.classifier import Classifier
from tasks.errors import HeadstartError
from tasks.evaluate.comparison import Comparison, compare
from tasks.evaluate.gates import ChampionPolicy, Findings, judge, load_gates
from tasks.evaluate.metrics import class_metrics, summary_metrics
from tasks.evaluate.parity import measure_parity
from tasks.images import read_checked
from tasks.repository import champion, read_model
from tasks.tables import read_table, write_table

PREDICTIONS = pa.schema(
    [
        *((name, pa.string()) for name in ("sha256", "path", "uri", "label", "split", "predicted")),
        ("probability", pa.float32()),  # of the predicted class
        ("probabilities", pa.list_(pa.float32())),  # in the order of the snapshot's labels
        ("champion_predicted", pa.string()),  # null where there is none
    ]
)


def evaluate(
    run: Run,
    snapshot: SnapshotRef,
    trunk: TrunkRef,
    head: HeadRef,
    candidate: ModelRef,
    on_image: Callable[[], None] = lambda: None,
) -> GateDecision:
    """Scores the candidate, and the champion on the same test images, and asks the gates.

    Writes `predictions.parquet` and `decision.json` into the run's folder, whatever the decision.
    """
    gates = load_gates(run.config.evaluate.gates)
    rows = _held_out(run, snapshot)
    classifier = Classifier(run.workspace.local_file(candidate.onnx_path))
    probabilities = _score(run, classifier, rows, on_image)
    targets = rows["label"].map({label: i for i, label in enumerate(snapshot.labels)}).to_numpy(np.int64)
    test = (rows["split"] == "test").to_numpy()
    challenger_right = probabilities.argmax(axis=1) == targets
    version, champion_labels = _champion_answers(run, rows[test])
    comparison = _compare(gates.champion, champion_labels, rows[test], challenger_right[test])
    metrics = {
        "test": summary_metrics(targets[test], probabilities[test]),
        "validation": summary_metrics(targets[~test], probabilities[~test]),
    }
    per_class = class_metrics(targets[test], probabilities[test].argmax(axis=1), len(snapshot.labels))
    images = rows[test]
    found = Findings(
        labels=snapshot.labels,
        targets=targets[test],
        metrics=metrics["test"],
        per_class=per_class,
        parity=measure_parity(run, trunk, head, images["sha256"].tolist(), images["uri"].tolist(), probabilities[test])
        if len(images)
        else None,
        champion_version=version,
        comparison=comparison,
    )
    results = judge(gates, found)
    decision = GateDecision(
        promote=all(result.passed is not False for result in results),
        reasons=_reasons(results),
        gates=results,
        metrics=metrics,
        champion_version=version,
    )
    _write_predictions(run, rows, snapshot.labels, probabilities, champion_labels)
    _write_decision(run, decision, comparison, snapshot.labels, per_class)
    return decision


def _held_out(run: Run, snapshot: SnapshotRef) -> pd.DataFrame:
    rows = read_table(run.workspace, snapshot.table_path, ["sha256", "path", "uri", "label", "split"])
    return rows[rows["split"] != "train"].reset_index(drop=True)


def _score(
    run: Run, classifier: Classifier, rows: pd.DataFrame, on_image: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Float32 [N, C] from the original bytes of each row's image."""
    reads = [partial(read_checked, uri, sha256) for uri, sha256 in zip(rows["uri"], rows["sha256"], strict=True)]
    answers = []
    for answer in classifier.classify_all(
        reads, workers=run.config.extract.workers, max_pixels=run.config.ingest.max_pixels
    ):
        answers.append(answer)
        on_image()
    return np.stack(answers) if answers else np.zeros((0, len(classifier.labels)), np.float32)


def _champion_answers(run: Run, test: pd.DataFrame) -> tuple[int | None, list[str] | None]:
    """The champion's version and its label for each test image; no labels where it can't be loaded."""
    version = champion(run.workspace, run.name)
    if version is None:
        return None, None
    try:
        classifier = Classifier(read_model(run.workspace, run.name, version))
    except HeadstartError:
        return version, None  # missing evidence, which the champion's gate refuses by name
    indices = _score(run, classifier, test).argmax(axis=1) if len(test) else []
    return version, [classifier.labels[index] for index in indices]


def _compare(
    policy: ChampionPolicy, champion_labels: list[str] | None, test: pd.DataFrame, challenger_right: np.ndarray
) -> Comparison | None:
    if champion_labels is None:
        return None
    return compare(
        np.array(champion_labels, object) == test["label"].to_numpy(object),
        challenger_right,
        margin=policy.non_inferiority_margin,
        confidence=policy.confidence,
        min_images=policy.min_paired_images,
    )


def _reasons(results: tuple[GateResult, ...]) -> tuple[str, ...]:
    refused = tuple(f"{result.name}: {result.reason}" for result in results if result.passed is False)
    return refused or tuple(f"{result.name}: {result.reason}" for result in results if result.name == "champion")


def _write_predictions(
    run: Run,
    rows: pd.DataFrame,
    labels: tuple[str, ...],
    probabilities: np.ndarray,
    champion_labels: list[str] | None,
) -> None:
    said = pd.Series([None] * len(rows), dtype=object)
    if champion_labels is not None:
        said[rows["split"] == "test"] = champion_labels
    table = rows.assign(
        predicted=np.array(labels, object)[probabilities.argmax(axis=1)],
        probability=probabilities.max(axis=1),
        probabilities=list(probabilities),
        champion_predicted=said,
    )
    write_table(run.workspace, run.path("predictions.parquet"), table, PREDICTIONS)


def _write_decision(
    run: Run,
    decision: GateDecision,
    comparison: Comparison | None,
    labels: tuple[str, ...],
    per_class: list[dict[str, float]],
) -> None:
    written: dict[str, Any] = {
        **asdict(decision),
        "verdict": "promoted" if decision.promote else "refused",
        "comparison": comparison.as_dict() if comparison else None,
        "per_class": {"test": [{"label": label, **row} for label, row in zip(labels, per_class, strict=True)]},
    }
    run.workspace.write_json(run.path("decision.json"), _finite(written))


def _finite(value: Any) -> Any:
    """The same tree with null for numbers that JSON can't hold."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
