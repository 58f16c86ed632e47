"""The evaluation stage: the candidate's file on the test split, from the original image bytes.

Validation was used for choices and decides nothing here: its metrics are those of the training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks.errors import DamagedFileError
from tasks.evaluate import champion_gate
from tasks.evaluate.comparison import ClassComparison, Comparison, compare, compare_classes
from tasks.evaluate.findings import Findings
from tasks.evaluate.fresh_process import FreshProcess, predict_in_fresh_process
from tasks.evaluate.gates import judge
from tasks.evaluate.latency import measure_latency, noise
from tasks.evaluate.metrics import calibration_error, chance_calibration_error, class_metrics, summary_metrics
from tasks.evaluate.new_labels import ask_champion, since
from tasks.evaluate.parity import measure_parity
from tasks.evaluate.predictions import Champion, champion_predictions, score, validation_probabilities
from tasks.evaluate.robustness import Changed, Robustness, Sample, measure_robustness
from tasks.evaluate.thresholds import ChampionPolicy, Gates, Serving, load_gates
from tasks.modality.feeds import Feed, feed_of_image
from tasks.modality.items import read_checked
from tasks.modality.wording import worded_gate
from tasks.networks import calibration
from tasks.networks.classifier import Classifier
from tasks.records import Candidate, Decision, GateResult, Run, Snapshot
from tasks.storage.repository import MODEL, champion, read_manifest
from tasks.storage.snapshots import read_snapshot
from tasks.storage.tables import write_table

NEW_LABELS = "new labels"
TYPICAL_TEXTS = 99  # of which the one of median length is timed
PREDICTIONS = pa.schema(
    [
        *((name, pa.string()) for name in ("sha256", "path", "uri", "label", "split", "predicted")),
        ("probability", pa.float32()),  # of the predicted class
        ("uncalibrated", pa.float32()),  # the same at temperature 1
        ("probabilities", pa.list_(pa.float32())),  # in the order of the snapshot's labels
        ("champion_predicted", pa.string()),  # null where there is none
        ("familiarity", pa.float32()),  # of a test image; null elsewhere
    ]
)


def evaluate(run: Run, candidate: Candidate, on_image: Callable[[], None] = lambda: None) -> Decision:
    """Predicts the test images with the candidate and with the champion, and judges the candidate by the gates.

    Writes `predictions.parquet` and `decision.json`, whatever the decision.
    """
    head = candidate.head
    snapshot, extractor = head.features.snapshot, head.features.extractor
    gates = load_gates(run.config.evaluate.gates, run.name)
    rows = _held_out(run, snapshot)
    model = _candidate_file(run, candidate)
    tokenizer = candidate.tokenizer_path
    classifier = Classifier(model, run.workspace.read_bytes(tokenizer) if tokenizer else None)
    familiarity = run.workspace.read_json(candidate.familiarity_path)
    targets = rows["label"].map({label: i for i, label in enumerate(snapshot.labels)}).to_numpy(np.int64)
    test = (rows["split"] == "test").to_numpy()
    images, truth = rows[test], targets[test]
    predicted = score(run, classifier, images, on_image)
    scores = predicted.probabilities
    probabilities = np.empty((len(rows), len(snapshot.labels)), np.float32)
    probabilities[test] = scores
    probabilities[~test] = validation_probabilities(run, head, rows.loc[~test, "sha256"], len(snapshot.labels))
    right = scores.argmax(axis=1) == truth
    standing = champion_predictions(run, images, snapshot.labels, below=candidate.version)
    comparison, class_comparisons = _compare(gates.champion, standing, images, right)
    metrics = {
        "test": summary_metrics(truth, scores),
        "validation": _validation_metrics(targets[~test], probabilities[~test], head.temperature),
    }
    found = Findings(
        labels=snapshot.labels,
        targets=truth,
        probabilities=scores,
        metrics=metrics["test"],
        per_class=class_metrics(truth, scores.argmax(axis=1), len(snapshot.labels)),
        parity=measure_parity(run, head, images["sha256"].tolist(), scores),
        fresh_process=_serves_alone(run, model, classifier, images, scores, gates.serving),
        latency=measure_latency(
            classifier,
            _typical_item(run, classifier, images, extractor.image_size_px),
            runs=gates.latency.runs,
            budget_s=gates.latency.budget_s,
        ),
        size_bytes=len(model),
        robustness=_changed_images(
            run,
            classifier,
            images,
            Sample([], truth, right, extractor.image_size_px, run.config.ingest.max_pixels),
            gates.robustness,
        ),
        champion_version=standing and standing.version,
        comparison=comparison,
        class_comparisons=class_comparisons,
        changes=standing and standing.changes,
        unknown=familiarity["unknown_classes"],
    )
    results = tuple(worded_gate(each, extractor.task, snapshot.labels) for each in judge(gates, found))
    undecided = _undecided(results, comparison)
    if standing and not undecided and any(result.passed is False for result in results):
        results += _by_new_labels(run, standing, snapshot, gates)
    decision = Decision(
        candidate=candidate,
        folder=run.folder,
        promote=all(result.passed is not False for result in results),
        reasons=_reasons(results),
        gates=results,
        metrics=metrics,
        champion_version=standing and standing.version,
        familiarity=familiarity,
        undecided=undecided,
    )
    shares = np.full(len(rows), np.nan, np.float32)
    if predicted.familiarity is not None:
        shares[test] = predicted.familiarity
    _write_predictions(run, rows.assign(familiarity=shares), snapshot.labels, probabilities, head.temperature, standing)
    _write_decision(run, decision, found, _calibration(found, metrics, head.temperature))
    return decision


def rules(run: Run, candidate: Candidate) -> list[Any]:
    """What the decision depends on beside the candidate."""
    gates = load_gates(run.config.evaluate.gates, run.name).digest()
    version = champion(run.workspace, run.name, below=candidate.version)
    standing = None if version is None else read_manifest(run.workspace, run.name, version)["files"][MODEL]
    return [run.name, gates, version, standing, run.config.validation.rename]


def _candidate_file(run: Run, candidate: Candidate) -> bytes:
    """The exported file, read once: all gates judge these bytes. Raises DamagedFileError where it changed."""
    content = run.workspace.read_bytes(candidate.onnx_path)
    if hashlib.sha256(content).hexdigest() != candidate.sha256:
        raise DamagedFileError(f"{candidate.onnx_path} changed after it was exported; run the retrain again")
    return content


def _held_out(run: Run, snapshot: Snapshot) -> pd.DataFrame:
    rows = read_snapshot(run.workspace, snapshot.id, ["sha256", "path", "uri", "label", "split"])
    return rows[rows["split"] != "train"].reset_index(drop=True)


def _serves_alone(
    run: Run, model: bytes, classifier: Classifier, test: pd.DataFrame, probabilities: np.ndarray, limits: Serving
) -> FreshProcess | None:
    if test.empty:
        return None
    chosen = _sample(len(test), limits.images)
    feeds = [classifier.read(read(), run.config.ingest.max_pixels) for read in _readers(test.iloc[chosen])]
    judged = [classifier.labels[index] for index in probabilities[chosen].argmax(axis=1)]
    return predict_in_fresh_process(model, feeds, judged, limits.budget_s)


def _typical_item(run: Run, classifier: Classifier, test: pd.DataFrame, image_size_px: int) -> Feed:
    """Noise of the backbone's own size; of texts, the one of median length among some of the test split."""
    if classifier.task == "image":
        return feed_of_image(noise(image_size_px))
    contents = [read() for read in _readers(test.iloc[_sample(len(test), TYPICAL_TEXTS)])] or [b"a text"]
    return classifier.read(sorted(contents, key=len)[len(contents) // 2])


def _changed_images(
    run: Run, classifier: Classifier, found: pd.DataFrame, sample: Sample, limits: Robustness
) -> list[Changed]:
    """The robustness of the candidate on some of the test images."""
    chosen = _sample(len(found), limits.images)
    part = replace(
        sample,
        readers=_readers(found.iloc[chosen]),
        targets=sample.targets[chosen],
        right_before=sample.right_before[chosen],
    )
    return measure_robustness(classifier, part, limits, run.config.extract.workers)


def _sample(n: int, count: int) -> np.ndarray:
    """Indices of `count` of `n` test images, evenly spaced; as they are sorted by digest, that is a random sample."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(int))


def _readers(rows: pd.DataFrame) -> list[Callable[[], bytes]]:
    """A function for each row that returns its item's bytes."""
    return [partial(read_checked, *row) for row in rows[["uri", "sha256"]].itertuples(index=False)]


def _validation_metrics(targets: np.ndarray, probabilities: np.ndarray, temperature: float) -> dict[str, float]:
    """The temperature was fitted on these images, so the calibration error is cross-fitted: see `calibration`."""
    fitted = calibration.cross_fitted(probabilities, targets, temperature)
    return {**summary_metrics(targets, probabilities), "ece": calibration_error(targets, fitted)}


def _calibration(found: Findings, metrics: dict[str, dict[str, float]], temperature: float) -> dict[str, float]:
    """The calibration error on the test images before and after the temperature, and cross-fitted on validation."""
    before = calibration.uncalibrated(found.probabilities, temperature)
    return {
        "temperature": temperature,
        "test_before": calibration_error(found.targets, before),
        "test": metrics["test"]["ece"],
        "test_by_chance": chance_calibration_error(found.probabilities),
        "validation_cross_fitted": metrics["validation"]["ece"],
    }


def _compare(
    policy: ChampionPolicy, standing: Champion | None, test: pd.DataFrame, challenger_right: np.ndarray
) -> tuple[Comparison | None, list[ClassComparison] | None]:
    """The paired comparison, of all classes together and of each, on the test images of the classes that both have."""
    if standing is None or standing.predicted is None:
        return None, None
    both = standing.predicted.notna().to_numpy()
    champion_right, challenger_right = (standing.predicted == test["label"]).to_numpy()[both], challenger_right[both]
    whole = compare(
        champion_right,
        challenger_right,
        margin=policy.non_inferiority_margin,
        confidence=policy.confidence,
        min_images=policy.min_paired_images,
    )
    return whole, compare_classes(test["label"][both].tolist(), champion_right, challenger_right)


def _undecided(results: tuple[GateResult, ...], comparison: Comparison | None) -> bool:
    """Whether the candidate is refused only because the test split can't tell it from the champion."""
    refused = [result.name for result in results if result.passed is False]
    return refused == [champion_gate.NAME] and comparison is not None and comparison.outcome == "not-enough-data"


def _by_new_labels(run: Run, standing: Champion, snapshot: Snapshot, gates: Gates) -> tuple[GateResult, ...]:
    """What explains a refusal, where the labels that arrived since the champion contradict it. It refuses nothing."""
    data = since(run, standing.version, snapshot) if standing.predicted is not None else None
    if data is None or data.arrived.empty:
        return ()
    confidence, error = gates.champion.confidence, gates.calibration.max_error
    labels, _ = ask_champion(run, standing.version, data.arrived, confidence, error)
    if not labels.contradict:
        return ()
    reason = f"{labels.sentence()}: look at these labels first"
    return (GateResult(name=NEW_LABELS, passed=None, value=labels.accuracy, threshold=None, reason=reason),)


def _reasons(results: tuple[GateResult, ...]) -> tuple[str, ...]:
    refused = [result for result in results if result.passed is False]
    named = refused + [result for result in results if result.name == (NEW_LABELS if refused else champion_gate.NAME)]
    return tuple(f"{result.name}: {result.reason}" for result in named)


def _write_predictions(
    run: Run,
    rows: pd.DataFrame,
    labels: tuple[str, ...],
    probabilities: np.ndarray,
    temperature: float,
    standing: Champion | None,
) -> None:
    champion_predicted = pd.Series(None, index=rows.index, dtype=object)
    if standing is not None and standing.predicted is not None:
        champion_predicted.update(standing.predicted)
    table = rows.assign(
        predicted=np.array(labels, object)[probabilities.argmax(axis=1)],
        probability=probabilities.max(axis=1),
        uncalibrated=calibration.uncalibrated(probabilities, temperature).max(axis=1),
        probabilities=list(probabilities),
        champion_predicted=champion_predicted,
    )
    write_table(run.workspace, run.path("predictions.parquet"), table, PREDICTIONS)


def _write_decision(run: Run, decision: Decision, found: Findings, calibrated: dict[str, float]) -> None:
    candidate = decision.candidate
    per_class = [{"label": label, **row} for label, row in zip(found.labels, found.per_class, strict=True)]
    written: dict[str, Any] = {
        "promote": decision.promote,
        "reasons": list(decision.reasons),
        "gates": [asdict(gate) for gate in decision.gates],
        "metrics": decision.metrics,
        "champion_version": decision.champion_version,
        "verdict": "promoted" if decision.promote else "refused",
        "override": None,
        "candidate": {"onnx_path": candidate.onnx_path, "sha256": candidate.sha256, "version": candidate.version},
        "evidence": decision.evidence,
        "comparison": found.comparison and found.comparison.as_dict(),
        "classes": found.changes and asdict(found.changes),
        "class_comparisons": [asdict(row) for row in found.class_comparisons or ()],
        "per_class": {"test": per_class},
        "calibration": calibrated,
        "familiarity": decision.familiarity,
        "robustness": [asdict(change) for change in found.robustness],
        "latency": found.latency and asdict(found.latency),
        "size_bytes": found.size_bytes,
    }
    run.workspace.write_json(run.path("decision.json"), _finite(written))


def _finite(value: Any) -> Any:
    """The same tree with null for numbers that JSON does not have (NaN, infinity)."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
