"""The evaluation stage: the candidate's file, over validation and test, from the original image bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks.artifacts import GateDecision, GateResult, HeadRef, ModelRef, Run, SnapshotRef, TrunkRef
from tasks.classifier import Classifier
from tasks.errors import HeadstartError
from tasks.evaluate.classes import ClassChanges, class_changes
from tasks.evaluate.comparison import Comparison, compare
from tasks.evaluate.fresh_process import FreshProcess, answer_in_fresh_process
from tasks.evaluate.gates import ChampionPolicy, Findings, Serving, judge, load_gates
from tasks.evaluate.metrics import class_metrics, summary_metrics
from tasks.evaluate.parity import measure_parity
from tasks.images import decode, read_checked
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


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The published model, as it answers this run's test images in today's names of the classes.

    `said` has a label for each test image, null where the image's class is one that it does not know; it and `changes`
    are None where the model can't be loaded.
    """

    version: int
    said: pd.Series | None = None
    changes: ClassChanges | None = None


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
    model_file = run.workspace.local_file(candidate.onnx_path)
    classifier = Classifier(model_file)
    probabilities = _score(run, classifier, rows, on_image)
    targets = rows["label"].map({label: i for i, label in enumerate(snapshot.labels)}).to_numpy(np.int64)
    test = (rows["split"] == "test").to_numpy()
    challenger_right = probabilities.argmax(axis=1) == targets
    stands = _champion_answers(run, rows[test], snapshot.labels)
    comparison = _compare(gates.champion, stands, rows[test], challenger_right[test])
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
        parity=measure_parity(run, trunk, head, images["sha256"].tolist(), probabilities[test])
        if len(images)
        else None,
        fresh_process=_serves_alone(run, model_file, images, snapshot.labels, probabilities[test], gates.serving),
        champion_version=stands and stands.version,
        comparison=comparison,
        changes=stands and stands.changes,
    )
    results = judge(gates, found)
    decision = GateDecision(
        promote=all(result.passed is not False for result in results),
        reasons=_reasons(results),
        gates=results,
        metrics=metrics,
        champion_version=stands and stands.version,
    )
    _write_predictions(run, rows, snapshot.labels, probabilities, stands)
    _write_decision(run, decision, comparison, stands, snapshot.labels, per_class)
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


def _champion_answers(run: Run, test: pd.DataFrame, labels: tuple[str, ...]) -> Champion | None:
    """The champion on those test images whose class it knows; None before there is one."""
    version = champion(run.workspace, run.name)
    if version is None:
        return None
    try:
        classifier = Classifier(read_model(run.workspace, run.name, version))
    except HeadstartError:
        return Champion(version=version)  # missing evidence, which the champion's gate refuses by name
    rename = run.config.validation.rename
    changes = class_changes(classifier.labels, labels, rename)
    known = test[test["label"].isin(changes.shared)]
    names = np.array([rename.get(label, label) for label in classifier.labels], object)
    said = pd.Series(names[_score(run, classifier, known).argmax(axis=1)], index=known.index, dtype=object)
    return Champion(version=version, said=said.reindex(test.index), changes=changes)


def _serves_alone(
    run: Run, model_file: str, test: pd.DataFrame, labels: tuple[str, ...], probabilities: np.ndarray, limits: Serving
) -> FreshProcess | None:
    """A few images spread over the test split, so over its classes and sources."""
    if test.empty:
        return None
    chosen = np.unique(np.linspace(0, len(test) - 1, limits.images).round().astype(int))
    pixels = [
        decode(read_checked(uri, sha256), run.config.ingest.max_pixels)
        for uri, sha256 in test.iloc[chosen][["uri", "sha256"]].itertuples(index=False)
    ]
    judged = [labels[index] for index in probabilities[chosen].argmax(axis=1)]
    return answer_in_fresh_process(model_file, pixels, judged, limits.budget_s)


def _compare(
    policy: ChampionPolicy, stands: Champion | None, test: pd.DataFrame, challenger_right: np.ndarray
) -> Comparison | None:
    """The paired comparison, on the test images of the classes that both know."""
    if stands is None or stands.said is None:
        return None
    both = stands.said.notna().to_numpy()
    return compare(
        (stands.said == test["label"]).to_numpy()[both],
        challenger_right[both],
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
    stands: Champion | None,
) -> None:
    said = pd.Series(None, index=rows.index, dtype=object)
    if stands is not None and stands.said is not None:
        said.update(stands.said)
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
    stands: Champion | None,
    labels: tuple[str, ...],
    per_class: list[dict[str, float]],
) -> None:
    written: dict[str, Any] = {
        **asdict(decision),
        "verdict": "promoted" if decision.promote else "refused",
        "comparison": comparison.as_dict() if comparison else None,
        "classes": asdict(stands.changes) if stands and stands.changes else None,
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
