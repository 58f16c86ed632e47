"""Runs a Great Expectations suite over a table and reports what fails.

A suite is a JSON file in `expectations/`. Each expectation's `meta` defines what a failure means:

    severity  "stop"        the run ends with InvalidDataError
              "quarantine"  each failing row is left out, by name; the run continues with the rest
              "warn"        it is only reported
    name, note              its name in reports, and what its column measures
    budget    false         rows that it quarantines don't count towards validate.max_quarantined_share
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

import expectations
from tasks.errors import ConfigError

log = logging.getLogger(__name__)

Severity = Literal["stop", "quarantine", "warn"]
SEVERITIES = get_args(Severity)
GX_SEVERITY = {"stop": "critical", "quarantine": "warning", "warn": "info"}
EXAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one expectation. Each example is {"path", "value"}."""

    expectation: str
    column: str | None
    severity: Severity
    success: bool
    observed: Any
    unexpected_count: int
    examples: list[dict[str, Any]]
    note: str
    allowed: str = ""
    counts_towards_budget: bool = True

    def sentence(self) -> str:
        """The finding as text, for the reasons of a run."""
        if self.unexpected_count:
            shown = ", ".join(f"{item['path']} ({item['value']})" for item in self.examples)
            found = f"{self.unexpected_count} images fail it, such as {shown}"
        else:
            found = f"found {self.observed}"
        return f"{self.expectation} ({self.note}): expected {self.allowed or 'otherwise'}; {found}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Verdict:
    """One pass of a suite: a finding for each expectation, and the reason for each rejected row.

    `rejected` maps the row's number in the table to (reason, whether it counts towards the budget). `result` is the
    JSON of Great Expectations, for its Data Docs.
    """

    findings: list[Finding]
    rejected: dict[int, tuple[str, bool]]
    result: dict[str, Any]


def preload() -> None:
    """Imports Great Expectations, which takes seconds, so that a flow can do it while it reads files."""
    great_expectations()


def load_suite(name_or_path: str) -> dict[str, Any]:
    """Reads a suite, given the name of a file in `expectations/` or a path.

    Raises:
        ConfigError: no such suite, or one that is not valid.
    """
    path = Path(name_or_path)
    if path.suffix != ".json":
        path = Path(expectations.__file__).parent / f"{name_or_path}.json"
    try:
        suite = json.loads(path.read_text(encoding="utf-8"))
        rules = suite["expectations"]
        suite.setdefault("name", path.stem)
        unknown = [rule["meta"]["severity"] for rule in rules if rule["meta"]["severity"] not in SEVERITIES]
    except OSError as exc:
        raise ConfigError(f"can't read the suite {path} (validate.suite): {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise ConfigError(
            f"the suite {path} (validate.suite) is not valid: {type(exc).__name__} {exc}; it needs expectations, a "
            "list of {type, kwargs, meta: {name, severity, note}}"
        ) from exc
    if unknown:
        raise ConfigError(
            f"the suite {path} (validate.suite) has the severity {unknown[0]!r}; allowed are {', '.join(SEVERITIES)}"
        )
    return suite


class SuiteRunner:
    """A suite that can be run over several tables."""

    def __init__(self, suite: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
        gx = great_expectations()
        self._parameters = dict(parameters)
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        batch = context.data_sources.add_pandas("catalogue").add_dataframe_asset("images")
        definition = gx.ValidationDefinition(
            name=suite["name"],
            data=batch.add_batch_definition_whole_dataframe("all"),
            suite=context.suites.add(gx_suite(suite)),
        )
        self._checkpoint = gx.Checkpoint(
            name=suite["name"],
            validation_definitions=[context.validation_definitions.add(definition)],
            result_format={"result_format": "COMPLETE"},
        )

    @classmethod
    def for_metrics(cls, suite: Mapping[str, Any], parameters: Mapping[str, Any], metrics: pd.DataFrame):
        """A suite over one row of metrics, without the expectations whose metric is null or absent."""
        rules = [rule for rule in suite["expectations"] if _applies(rule, metrics)]
        return cls({**suite, "expectations": rules}, parameters)

    def run(self, table: pd.DataFrame) -> Verdict:
        """Runs the suite over `table`, which has the column `path`; its index numbers the rows."""
        result = self._checkpoint.run(batch_parameters={"dataframe": table}, expectation_parameters=self._parameters)
        [outcome] = result.run_results.values()
        findings: list[Finding] = []
        rejected: dict[int, tuple[str, bool]] = {}
        for item in outcome.results:
            finding, rows = _finding(item.to_json_dict(), self._parameters, table)
            findings.append(finding)
            if finding.severity == "quarantine":
                for row, value in rows.items():
                    reason = _reason(finding, value, table, row)
                    rejected.setdefault(row, (reason, finding.counts_towards_budget))
        findings.sort(key=lambda f: (SEVERITIES.index(f.severity), f.expectation))
        return Verdict(findings, rejected, outcome.to_json_dict())


def _applies(rule: Mapping[str, Any], metrics: pd.DataFrame) -> bool:
    column = rule["kwargs"].get("column")
    return column is None or (column in metrics and metrics[column].notna().all())


def great_expectations() -> Any:
    """The library, imported on first use because that takes seconds."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read on import
    module = importlib.import_module("great_expectations")
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    return module


def gx_suite(suite: Mapping[str, Any]) -> Any:
    """The suite of Great Expectations, built rule by rule: as a whole it would silently skip invalid rules."""
    return great_expectations().ExpectationSuite(
        name=suite["name"], expectations=[_gx_rule(rule) for rule in suite["expectations"]], meta=suite.get("meta", {})
    )


def _gx_rule(rule: Mapping[str, Any]) -> Any:
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.expectations.metadata_types import FailureSeverity

    severity = FailureSeverity(GX_SEVERITY[rule["meta"]["severity"]])
    try:
        return ExpectationConfiguration(
            type=rule["type"], kwargs=rule["kwargs"], meta=rule["meta"], severity=severity
        ).to_domain_obj()
    except Exception as exc:
        name = rule["meta"].get("name", rule["type"])
        raise ConfigError(f"the suite's expectation {name!r} (validate.suite) is not valid: {exc}") from exc


def _finding(
    item: Mapping[str, Any], parameters: Mapping[str, Any], table: pd.DataFrame
) -> tuple[Finding, dict[int, Any]]:
    """A result of Great Expectations as a finding, and the values of the unexpected rows."""
    rule, result = item["expectation_config"], item["result"]
    meta = rule["meta"]
    kwargs = {key: _resolve(value, parameters) for key, value in rule["kwargs"].items()}
    rows = dict(zip(result.get("unexpected_index_list") or [], result.get("unexpected_list") or [], strict=False))
    severity: Severity = meta["severity"]
    fault = _fault(item["exception_info"])
    if severity == "quarantine" and (fault or (not item["success"] and not rows)):
        severity = "stop"  # there is no row to leave out, and an unchecked rule must not pass
    examples = [{"path": table.at[row, "path"], "value": _plain(value)} for row, value in list(rows.items())[:EXAMPLES]]
    finding = Finding(
        expectation=meta.get("name", rule["type"]),
        column=kwargs.get("column"),
        severity=severity,
        success=bool(item["success"]) and not fault,
        observed=fault or _observed(result, kwargs.get("column"), table),
        unexpected_count=int(result.get("unexpected_count") or 0),
        examples=examples,
        note=meta.get("note", rule["type"]),
        allowed=_allowed(kwargs),
        counts_towards_budget=bool(meta.get("budget", True)),
    )
    return finding, rows


def _observed(result: Mapping[str, Any], column: str | None, table: pd.DataFrame) -> Any:
    """The observed value; for a single row of metrics with the note that belongs to it."""
    observed = _plain(result.get("observed_value", result.get("unexpected_percent")))
    note = table[f"{column}_note"].iloc[0] if len(table) == 1 and f"{column}_note" in table else None
    return f"{observed} ({note})" if isinstance(note, str) else observed


def _fault(exception_info: Mapping[str, Any]) -> str | None:
    """Why an expectation could not be evaluated, if so; `exception_info` is for one metric, or keyed by metrics."""
    metrics = [exception_info] if "raised_exception" in exception_info else list(exception_info.values())
    return next((str(metric["exception_message"]) for metric in metrics if metric["raised_exception"]), None)


def _resolve(value: Any, parameters: Mapping[str, Any]) -> Any:
    return parameters.get(value["$PARAMETER"]) if isinstance(value, dict) and "$PARAMETER" in value else value


def _allowed(kwargs: Mapping[str, Any]) -> str:
    """The bounds of an expectation as text."""
    parts = []
    if kwargs.get("min_value") is not None:
        parts.append(f"at least {kwargs['min_value']:g}")
    if kwargs.get("max_value") is not None:
        parts.append(f"at most {kwargs['max_value']:g}")
    if kwargs.get("value_set"):
        parts.append("one of " + ", ".join(map(str, kwargs["value_set"])))
    if kwargs.get("regex"):
        parts.append(f"a match of {kwargs['regex']}")
    return " and ".join(parts)


def _reason(finding: Finding, value: Any, table: pd.DataFrame, row: int) -> str:
    """Why a row is rejected; a column `x_note` of the table adds details on `x`."""
    reason = f"{finding.column} is {_plain(value)}, expected {finding.allowed} ({finding.expectation}: {finding.note})"
    note = table.at[row, f"{finding.column}_note"] if f"{finding.column}_note" in table else None
    return f"{reason}: {note}" if isinstance(note, str) else reason


def _plain(value: Any) -> Any:
    """A value for JSON and messages: floats with four significant digits, None for NaN."""
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.4g}")
    return value
