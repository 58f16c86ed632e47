"""A suite over a table: what each severity does with a row, and what is no suite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.errors import ConfigError
from tasks.validate.suite import Finding, SuiteRunner, load_suite

TABLE = pd.DataFrame(
    {
        "path": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"],
        "width_px": [400, 12, 8, 500],
        "width_px_note": [None, "a strip", None, None],
        "label": ["cat", "cat", "dog", "eel"],
    },
    index=[10, 11, 12, 13],  # the rows' numbers, which need not begin at 0
)


def rule(severity: str, name: str, column: str = "width_px", type: str = "", **kwargs: Any) -> dict[str, Any]:
    budget = {"budget": kwargs.pop("budget")} if "budget" in kwargs else {}
    return {
        "type": type or "expect_column_values_to_be_between",
        "kwargs": {"column": column, **kwargs},
        "meta": {"name": name, "severity": severity, "note": f"the note of {name}", **budget},
    }


def run(*rules: dict[str, Any], table: pd.DataFrame = TABLE, **parameters: Any):
    return SuiteRunner({"name": "s", "expectations": list(rules)}, parameters).run(table)


def found(verdict: Any) -> dict[str, Finding]:
    return {finding.expectation: finding for finding in verdict.findings}


def test_rows_that_fail_a_quarantine_are_rejected_each_with_its_reason():
    verdict = run(rule("quarantine", "wide", min_value=32))
    assert verdict.rejected == {
        11: ("width_px is 12, expected at least 32 (wide: the note of wide): a strip", True),
        12: ("width_px is 8, expected at least 32 (wide: the note of wide)", True),
    }
    finding = found(verdict)["wide"]
    assert (finding.success, finding.unexpected_count, finding.column) == (False, 2, "width_px")
    assert finding.examples == [{"path": "b.jpg", "value": 12}, {"path": "c.jpg", "value": 8}]
    assert "2 images fail it, such as b.jpg (12), c.jpg (8)" in finding.sentence()


def test_a_row_that_fails_two_has_the_reason_of_the_first():
    verdict = run(rule("quarantine", "wide", min_value=10), rule("quarantine", "wider", min_value=32, budget=False))
    assert verdict.rejected[12][0].startswith("width_px is 8, expected at least 10 (wide: ")
    assert [counts for _, counts in verdict.rejected.values()] == [True, False]
    assert found(verdict)["wider"].counts_towards_budget is False


@pytest.mark.parametrize("severity", ["stop", "warn"])
def test_other_severities_reject_no_row(severity: str):
    verdict = run(rule(severity, "wide", min_value=32))
    assert verdict.rejected == {}
    assert (found(verdict)["wide"].severity, found(verdict)["wide"].success) == (severity, False)


def test_findings_come_by_severity_and_what_is_met_is_among_them():
    rules = [rule(severity, severity, min_value=0) for severity in ("warn", "quarantine", "stop")]
    verdict = run(*rules)
    assert [finding.expectation for finding in verdict.findings] == ["stop", "quarantine", "warn"]
    assert all(finding.success for finding in verdict.findings)


def test_a_parameter_stands_for_a_key_of_the_configuration():
    verdict = run(rule("quarantine", "wide", min_value={"$PARAMETER": "min_width_px"}), min_width_px=10)
    assert verdict.rejected.keys() == {12}
    assert found(verdict)["wide"].allowed == "at least 10"


def test_bounds_are_put_into_words():
    verdict = run(
        rule("warn", "between", min_value=1, max_value=20),
        rule("warn", "set", "label", "expect_column_values_to_be_in_set", value_set=["cat", "dog"]),
        rule("warn", "pattern", "label", "expect_column_values_to_match_regex", regex="^c"),
    )
    allowed = {name: finding.allowed for name, finding in found(verdict).items()}
    assert allowed == {"between": "at least 1 and at most 20", "set": "one of cat, dog", "pattern": "a match of ^c"}


def test_what_cannot_be_evaluated_stops_instead_of_being_waved_through():
    verdict = run(rule("quarantine", "colour", "colour", "expect_column_values_to_not_be_null"))
    finding = found(verdict)["colour"]
    assert (finding.severity, finding.success) == ("stop", False)
    assert "colour" in str(finding.observed)


def test_a_quarantine_that_names_no_row_stops():
    verdict = run(
        {
            "type": "expect_table_row_count_to_be_between",
            "kwargs": {"min_value": 5},
            "meta": {"name": "rows", "severity": "quarantine", "note": "images"},
        }
    )
    assert found(verdict)["rows"].severity == "stop"
    assert verdict.rejected == {}


def test_a_runner_is_used_for_one_table_after_another():
    runner = SuiteRunner({"name": "s", "expectations": [rule("quarantine", "wide", min_value=32)]}, {})
    assert runner.run(TABLE).rejected.keys() == {11, 12}
    assert runner.run(TABLE.drop([11, 12])).rejected == {}


def test_metrics_that_are_null_or_absent_are_not_judged():
    metrics = pd.DataFrame({"path": [""], "growth": [3.0], "growth_note": ["from 2 to 8"], "drift": [None]})
    rules = [rule("stop", name, name, max_value=1) for name in ("growth", "drift", "absent")]
    verdict = SuiteRunner.for_metrics({"name": "s", "expectations": rules}, {}, metrics).run(metrics)
    [finding] = verdict.findings
    assert (finding.expectation, finding.success, finding.unexpected_count) == ("growth", False, 1)


def test_what_great_expectations_says_goes_with_it_as_json():
    verdict = run(rule("warn", "wide", min_value=32))
    [result] = json.loads(json.dumps(verdict.result))["results"]
    assert result["success"] is False


def test_a_suite_is_found_by_its_name_and_by_its_path(tmp_path: Path):
    assert load_suite("images")["name"] == "images"
    (tmp_path / "own.json").write_text(json.dumps({"expectations": [rule("stop", "wide", min_value=1)]}))
    assert load_suite(str(tmp_path / "own.json"))["name"] == "own"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "can't read the suite"),
        ("{", "is not valid: JSONDecodeError"),
        ('{"expectations": [{"type": "x"}]}', "is not valid: KeyError 'meta'"),
        ('{"expectations": [{"meta": {"severity": "fatal"}}]}', "severity 'fatal'; allowed are stop, quarantine, warn"),
    ],
)
def test_a_suite_that_is_none_is_a_configuration_error(tmp_path: Path, content: str | None, says: str):
    if content:
        (tmp_path / "suite.json").write_text(content)
    with pytest.raises(ConfigError, match=says):
        load_suite(str(tmp_path / "suite.json"))


def test_a_suite_that_great_expectations_refuses_is_a_configuration_error():
    miracles = {"type": "expect_miracles", "kwargs": {}, "meta": {"severity": "stop", "name": "x", "note": "y"}}
    with pytest.raises(ConfigError, match="expect_miracles"):
        SuiteRunner({"name": "s", "expectations": [miracles]}, {})
