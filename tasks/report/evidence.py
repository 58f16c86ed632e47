"""The files of a run, read back: the only input of the report.

Every file may be absent (a first model has no champion to compare with, a run of invalid data no
predictions): what is absent is named in `Evidence.missing`, and the report says so.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.records import Run
from tasks.storage.corrections import read_applied
from tasks.storage.quarantine import disputed, run_quarantine
from tasks.storage.repository import read_manifest, versions

DATA_DOCS_PAGE = "data_docs/index.html"
PREDICTION_COLUMNS = (
    "sha256",
    "path",
    "uri",
    "label",
    "split",
    "predicted",
    "probability",
    "uncalibrated",
    "champion_predicted",
    "familiarity",
)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The predictions of the candidate, and of the champion where there is one, for one held-out image."""

    sha256: str
    path: str
    uri: str
    label: str
    split: str
    predicted: str
    probability: float  # of `predicted`
    uncalibrated: float | None = None  # the same without the temperature
    champion_predicted: str | None = None
    familiarity: float | None = None  # in 0..1; None of a validation image, and in earlier runs

    @property
    def correct(self) -> bool:
        return self.predicted == self.label


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """One image whose label is probably wrong."""

    sha256: str
    path: str
    uri: str
    split: str
    label: str
    suggested: str
    probability: float  # of `label`
    suggested_probability: float
    wrong: float | None = None  # probability that `label` is; earlier runs have none


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The files of one run's folder, and of the workspace where the run names them."""

    run: Run
    summary: dict[str, Any] = field(default_factory=dict)
    decision: dict[str, Any] = field(default_factory=dict)
    history: dict[str, Any] = field(default_factory=dict)
    expectations: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    suspects: list[Suspect] = field(default_factory=list)
    suspects_file: str = "suspects.json"  # relative to the run's folder
    snapshot: pa.Table | None = None
    champion_snapshot: pa.Table | None = None
    learning_curve: dict[str, Any] = field(default_factory=dict)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    disputed: int = 0  # of those, items that several classes have
    corrections: dict[str, Any] = field(default_factory=dict)  # as `tasks.ingest.corrected.Corrected.to_json`
    data_docs: str | None = None  # relative to the run's folder
    missing: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        return self.summary.get("verdict") or self.decision.get("verdict") or "unknown"

    @property
    def reasons(self) -> list[str]:
        """The reasons of the gates; who overrode them, and why, is in `override`."""
        first, second = (self.decision, self.summary) if self.override else (self.summary, self.decision)
        return list(first.get("reasons") or second.get("reasons") or ())

    @property
    def override(self) -> dict[str, Any] | None:
        """Who published what the gates refused, and why; None where nobody did."""
        return self.decision.get("override")

    @property
    def version(self) -> int | None:
        """The published version that this run made or left in service; None for a refused candidate."""
        return self.summary.get("version") if self.verdict in ("promoted", "unchanged") else None

    @property
    def labels(self) -> list[str]:
        """The class names in index order; from the predictions where the summary is absent."""
        seen = {p.label for p in self.predictions} | {p.predicted for p in self.predictions}
        known = list(self.summary.get("labels") or ())
        return known + sorted(seen - set(known))

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        return self.decision.get("metrics") or self.summary.get("metrics") or {}

    @property
    def judged_split(self) -> str:
        """`test`, or `validation` in a run that has no test predictions."""
        return "test" if any(p.split == "test" for p in self.predictions) or not self.predictions else "validation"

    @property
    def judged(self) -> list[Prediction]:
        """The predictions that the verdict is based on."""
        split = self.judged_split
        return [p for p in self.predictions if p.split == split]

    @property
    def per_class(self) -> list[dict[str, Any]]:
        return (self.decision.get("per_class") or {}).get(self.judged_split) or []


def read_evidence(run: Run) -> Evidence:
    """Reads the files of a run and of its stages. Absent ones are listed in `missing`; damaged ones raise."""
    missing: list[str] = []

    def read(path: str, reader: Callable[[Run, str], Any], default: Any) -> Any:
        if run.workspace.exists(path):
            return reader(run, path)
        missing.append(path.rsplit("/", 1)[-1])
        return default

    summary = read(run.path("summary.json"), _read_json, {})
    decision = read(run.path("decision.json"), _read_json, {})
    snapshot = summary.get("snapshot")

    def path(stage: str, file: str) -> str:
        """The path of a file that a stage made for this run."""
        return f"{summary.get('artifacts', {}).get(stage, run.folder)}/{file}"

    table = read(f"snapshots/{snapshot}.parquet", _read_snapshot, None) if snapshot else None
    # A stage's files are kept as they were made, while the images may have been moved since.
    places = dict(zip(table["sha256"].to_pylist(), table["uri"].to_pylist(), strict=True)) if table else {}

    def moved(images: list[Any]) -> list[Any]:
        return [replace(image, uri=places.get(image.sha256) or image.uri) for image in images]

    left_out = run_quarantine(run)
    findings = [read(path(stage, "validation.json"), _read_json, []) for stage in ("validate", "review")]
    return Evidence(
        run=run,
        summary=summary,
        decision=decision,
        history=read(path("finetune", "history.json"), _read_json, {}),
        expectations=_merged(*findings),
        predictions=moved(read(path("evaluate", "predictions.parquet"), _read_predictions, [])),
        suspects=moved(read(path("review", "suspects.json"), _read_suspects, [])),
        suspects_file=posixpath.relpath(path("review", "suspects.json"), run.folder),
        snapshot=table,
        champion_snapshot=_read_champion_snapshot(run, decision.get("champion_version")),
        learning_curve=read(path("review", "learning_curve.json"), _read_json, {}),
        quarantine=[asdict(entry) for entry in left_out],
        disputed=len(disputed(left_out)),
        corrections=read_applied(run.workspace, run.folder),
        data_docs=_data_docs(run, [path(stage, DATA_DOCS_PAGE) for stage in ("review", "validate")]),
        missing=tuple(dict.fromkeys(missing)),
    )


def _merged(validated: list[dict[str, Any]], reviewed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The findings of validation, then those of the review."""
    names = {item["expectation"] for item in validated}
    return [*validated, *(item for item in reviewed if item["expectation"] not in names)]


def _data_docs(run: Run, pages: Sequence[str]) -> str | None:
    """The first of these pages that is there, relative to the run's folder."""
    page = next((page for page in pages if run.workspace.exists(page)), None)
    return page and posixpath.relpath(page, run.folder)


def _read_json(run: Run, path: str) -> Any:
    return run.workspace.read_json(path)


def _read_table(run: Run, path: str, columns: tuple[str, ...]) -> pa.Table:
    file = pq.ParquetFile(pa.BufferReader(run.workspace.read_bytes(path)))
    return file.read(columns=[name for name in columns if name in file.schema_arrow.names])


def _read_predictions(run: Run, path: str) -> list[Prediction]:
    return [Prediction(**row) for row in _read_table(run, path, PREDICTION_COLUMNS).to_pylist()]


def _read_snapshot(run: Run, path: str) -> pa.Table | None:
    return _read_table(run, path, ("sha256", "uri", "label", "split", "width_px", "height_px"))


def _read_champion_snapshot(run: Run, version: int | None) -> pa.Table | None:
    """The snapshot of the champion that this run was compared with; None where that was removed."""
    if version not in versions(run.workspace, run.name):
        return None
    path = f"snapshots/{read_manifest(run.workspace, run.name, int(version))['lineage'].get('snapshot')}.parquet"
    return _read_snapshot(run, path) if run.workspace.exists(path) else None


def _read_suspects(run: Run, path: str) -> list[Suspect]:
    return [Suspect(**item) for item in run.workspace.read_json(path)]
