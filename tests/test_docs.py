"""README.md and docs/: their commands parse, the README's are run, and the table of keys is the schema."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup as Group

from flows.cli.config_table import markdown_table
from flows.cli.main import app
from tests import photos
from tests.up import free_port

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
HEADSTART = typer.main.get_command(app)


def commands_in(page: Path) -> Iterator[list[str]]:
    """The arguments of each `uv run headstart …` line in a page's blocks of code."""
    for block in re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            for command in line.split("&&"):
                if command.strip().startswith("uv run headstart "):
                    yield shlex.split(command)[3:]


COMMANDS = [pytest.param(args, id=f"{page.name}: {shlex.join(args)}") for page in PAGES for args in commands_in(page)]


def test_the_configuration_table_is_the_schema():
    """Regenerate: `uv run python -c "from flows.cli.config_table import markdown_table; print(markdown_table())"`."""
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    [table] = re.findall(r"<!-- config -->\n(.*?)\n<!-- /config -->", text, re.DOTALL)
    assert table == markdown_table()


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_command_is_documented_and_every_documented_command_exists():
    documented = set(re.findall(r"^\| `headstart (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert isinstance(HEADSTART, Group)
    assert documented == set(HEADSTART.commands)


@pytest.mark.parametrize("args", COMMANDS)
def test_every_command_line_is_one_that_headstart_takes(args: list[str]):
    command, context = HEADSTART, HEADSTART.context_class(HEADSTART)
    while isinstance(command, Group):
        name, command, args = command.resolve_command(context, args)
        assert command, name
    command.make_context(command.name, list(args))  # raises for an unknown option or a missing argument


def test_every_flag_in_the_text_exists():
    assert isinstance(HEADSTART, Group)
    groups = [command for command in HEADSTART.commands.values() if isinstance(command, Group)]
    commands = [*HEADSTART.commands.values(), *(command for group in groups for command in group.commands.values())]
    known = {option for command in commands for each in command.params for option in each.opts}
    known |= {option for each in HEADSTART.params for option in each.opts} | {"--help"}
    others = ("pip install", "python -m", "WEIGHTS.h5", "uv sync", "prefect automation", "uv run prefect")
    for page in PAGES:
        lines = [line for line in page.read_text(encoding="utf-8").splitlines() if not any(o in line for o in others)]
        assert set(re.findall(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*", "\n".join(lines))) <= known, page.name


@pytest.mark.slow
def test_the_readmes_commands_run_in_their_order(tmp_path: Path):
    """As they stand there, on small pictures of two classes; what runs until Ctrl-C is stopped once it is up."""
    photos.class_folders(tmp_path / "photos", {"hat": 80, "shoe": 80}, start=1)
    for label in ("hat", "shoe"):
        first = tmp_path / "photos" / label / "00001.jpg"
        first.rename(first.with_name("1.jpg"))
    port = free_port()
    environ = {**os.environ, "HEADSTART_BACKBONE__NAME": "embedded", "HEADSTART_BACKBONE__IMAGE_SIZE_PX": "64"}
    environ |= {"PREFECT_HOME": str(tmp_path / "prefect"), "TFDS_DATA_DIR": str(tmp_path / "tfds")}
    # Colours are easily told apart, so the head is less confident than it could be, which is not what is tested here.
    (tmp_path / "gates.toml").write_text("[calibration]\nmax_error = 0.5\n")
    environ |= {"HEADSTART_SPLIT__TEST_SHARE": "0.25", "HEADSTART_EVALUATE__GATES": str(tmp_path / "gates.toml")}
    environ.pop("PREFECT_API_URL", None)
    for args in commands_in(README):
        command = [sys.executable, "-m", "flows.cli", *args]
        if args[0] in ("serve", "up"):
            _starts_and_stops([*command, "--port", str(port)], tmp_path, environ)
        else:
            done = subprocess.run(command, cwd=tmp_path, env=_found(environ), capture_output=True, text=True)
            assert done.returncode == 0, f"{args}: {done.stdout}{done.stderr}"


def _found(environ: dict[str, str]) -> dict[str, str]:
    """With this checkout on Python's path, as the command runs in a folder of its own."""
    return environ | {"PYTHONPATH": str(ROOT)}


def _starts_and_stops(command: list[str], folder: Path, environ: dict[str, str]) -> None:
    with subprocess.Popen(command, cwd=folder, env=_found(environ), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            lines = iter(process.stderr.readline, "")
            assert any("Ctrl-C stops it" in line for line in lines), command
        finally:
            process.send_signal(signal.SIGINT)
            process.stderr.read()
        assert process.wait(60) in (0, 130), command  # 130 is the shell's status for Ctrl-C
