"""The alert rules, by Prometheus's own tool: what raises an alert and what does not."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.serving.metrics import Metrics

RULES = Path(__file__).parents[2] / "deploy/prometheus/alerts.yaml"
UNFAMILIAR = "HeadstartUnfamiliarImages"
# As many images a minute: familiar ones, and unfamiliar ones that become more after an hour.
SERIES = {"true": "0+10x120", "false": "0+1x60 60+5x60"}


def promtool(*args: object) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    return subprocess.run([tool, *map(str, args)], capture_output=True, text=True, check=False)


def alerts(tmp_path: Path, series: list[dict[str, str]], at: str, name: str) -> list[str]:
    """The severities of the alerts of this name that are raised at a time."""
    asked = [{"eval_time": at, "alertname": name, "exp_alerts": []}]
    tests = [{"interval": "1m", "input_series": series, "alert_rule_test": asked}]
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    done = promtool("test", "rules", file)
    assert done.returncode in (0, 1), done.stderr
    found = done.stdout + done.stderr
    return re.findall(r'severity="(\w+)"', found.partition("got:")[2])


def test_the_rules_are_valid_and_ask_for_what_the_server_counts():
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = {metric.name for metric in Metrics().registry.collect()}
    rules: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    asked = {name for rule in rules for name in re.findall(r"headstart_\w+", rule["expr"])}
    assert {name.removesuffix("_total") for name in asked} <= counted


def test_many_unfamiliar_images_raise_an_alert_and_a_twentieth_does_not(tmp_path: Path):
    series = [
        {"series": f'headstart_images_total{{job="serve",familiar="{familiar}"}}', "values": values}
        for familiar, values in SERIES.items()
    ]
    assert alerts(tmp_path, series, "60m", UNFAMILIAR) == []
    assert alerts(tmp_path, series, "119m", UNFAMILIAR) == ["warning"]
    few = [{**each, "values": each["values"].replace("+10", "+0.1").replace("+5", "+0.1")} for each in series]
    assert alerts(tmp_path, few, "119m", UNFAMILIAR) == []


def test_a_server_without_a_model_raises_an_alert(tmp_path: Path):
    series = [{"series": 'headstart_model_version{job="serve"}', "values": "1x20 0x20"}]
    assert alerts(tmp_path, series, "20m", "HeadstartNoModel") == []
    assert alerts(tmp_path, series, "39m", "HeadstartNoModel") == ["critical"]
