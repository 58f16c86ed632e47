"""The `headstart` command. Heavy imports happen inside the commands: `--help` answers at once."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli import (
    backbones,
    explain,
    fresh,
    models,
    next,
    prediction,
    quarantine,
    retrain,
    reviewing,
    serving,
    workspace,
)
from flows.cli.output import say
from tasks.processes import collect_rarely

app = typer.Typer(
    name="headstart",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (retrain, fresh, models, prediction, explain, next, serving, reviewing, workspace):
    app.add_typer(group.app)
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(backbones.app, name="backbone")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"headstart {version('headstart')}")
        raise typer.Exit


@app.callback()
def headstart(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turns a growing folder of labelled images, or a table of labelled texts, into a deployable ONNX classifier, and
    does it again whenever new labels arrive."""


def main() -> None:
    """The console script's entry point."""
    collect_rarely()
    app()
