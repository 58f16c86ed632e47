"""The README says what is so: its table of keys is the schema, its commands and statuses are the program's."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

from flows.cli.config_table import markdown_table
from flows.cli.main import app

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_configuration_table_is_the_schema():
    """Regenerate: `uv run python -c "from flows.cli.config_table import markdown_table; print(markdown_table())"`."""
    [table] = re.findall(r"<!-- config -->\n(.*?)\n<!-- /config -->", README, re.DOTALL)
    assert table == markdown_table()


def test_every_command_is_documented_and_every_documented_command_exists():
    documented = set(re.findall(r"^\| `headstart (\w+)", README, re.MULTILINE))
    assert documented == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_every_documented_flag_exists():
    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    known = {option for command in commands for parameter in command.params for option in parameter.opts}
    others = ("python -m", "WEIGHTS.h5", "uv sync", "prefect automation", "uv run prefect")
    lines = [line for line in README.splitlines() if not any(other in line for other in others)]
    assert set(re.findall(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*", "\n".join(lines))) <= known | {"--help"}
