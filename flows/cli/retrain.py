"""`headstart retrain` and `headstart demo`: the flow once, here and now."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import typer

from flows.cli import options, running
from flows.cli.options import KeyFlags
from flows.cli.output import plain_errors, print_json, say
from tasks.display import line, showing
from tasks.workspace import Workspace

app = typer.Typer()

OWN_PHOTOGRAPHS = "Now your own photographs: headstart retrain FOLDER --name NAME, a subfolder a class"
OWN_TEXTS = "Now your own texts: headstart retrain FILE.csv --name NAME, with the columns text and label"
EXIT_STATUS = {"refused": 3, "invalid-data": 4}  # of a verdict; 0 for the others


@app.command()
def retrain(
    source: options.Source,
    name: options.Name = "default",
    config: options.ConfigFile = None,
    set_: options.Set = None,
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    engine: options.Engine = None,
    precision: options.Precision = None,
    auto: options.Auto = False,
    runner: options.Runner = None,
    dask_address: options.DaskAddress = None,
    force: options.Force = False,
    workspace: options.Workspace = "./workspace",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run the whole flow once, here and now.

    Exit status: 0 promoted, or nothing new; 1 a fault; 2 bad usage, configuration or source; 3 the gates refused
    the challenger; 4 the data failed validation.
    """
    flags = KeyFlags(
        set_=set_,
        backbone=backbone,
        weights=weights,
        engine=engine,
        precision=precision,
        auto=auto,
        runner=runner,
        dask_address=dask_address,
    )
    with plain_errors(), _shown(as_json or quiet):
        line(f"Retrains {name} from {source}; Ctrl-C stops it, and the next start resumes.")
        summary = running.run_flow(source, name, config, flags.overrides(), workspace, force)
        if as_json:
            print_json(summary)
        else:
            _print_summary(summary, workspace)
    raise typer.Exit(EXIT_STATUS.get(summary["verdict"], 0))


@app.command()
def demo(
    text: options.DemoText = False,
    workspace: options.Workspace = "./workspace",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show the whole flow on handwritten digits, or on messages: no network, no account, under two minutes."""
    with plain_errors(), _shown(as_json or quiet):
        items = "messages" if text else "handwritten digits"
        line(f"Trains on {items} that come with headstart, then again when more arrive.")
        Workspace(workspace).check_writable()
        summaries = []
        for arrived, summary in running.run_demo_flow(workspace, text):
            summaries.append(summary)
            if not as_json:
                say(f"\n{arrived}", fg="cyan")
                _print_summary(summary, workspace)
        if as_json:
            print_json({"runs": summaries})
        else:
            say(f"\nOpen the report: {summaries[-1]['report']}")
            say(OWN_TEXTS if text else OWN_PHOTOGRAPHS)


def _shown(silent: bool) -> AbstractContextManager[None]:
    return nullcontext() if silent else showing()


def _print_summary(summary: dict[str, Any], workspace: str) -> None:
    from flows.cli.verdict import verdict_text

    first, rest = verdict_text(summary, Workspace(workspace)).split("\n", 1)
    say(first, bold=True)
    say(rest)
