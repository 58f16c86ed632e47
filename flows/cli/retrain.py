"""`headstart retrain` and `headstart demo`: the flow once, here and now."""

from __future__ import annotations

from typing import Any

import typer

from flows.cli import options, running
from flows.cli.options import KeyFlags
from flows.cli.output import plain_errors, print_json, say
from tasks.workspace import Workspace

app = typer.Typer()

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
    with plain_errors():
        summary = running.run_flow(source, name, config, flags.overrides(), workspace, force)
        if as_json:
            print_json(summary)
        else:
            _print_summary(summary)
    raise typer.Exit(EXIT_STATUS.get(summary["verdict"], 0))


@app.command()
def demo(workspace: options.Workspace = "./workspace", as_json: options.Json = False) -> None:
    """Show the whole flow on handwritten digits: no network, no account, under two minutes."""
    with plain_errors():
        Workspace(workspace).check_writable()
        summaries = []
        for arrived, summary in running.run_demo_flow(workspace):
            summaries.append(summary)
            if not as_json:
                say(typer.style(f"\n{arrived}", fg="cyan"))
                _print_summary(summary)
        if as_json:
            print_json({"runs": summaries})
        else:
            say(f"\nOpen the report: {summaries[-1]['report']}")
            say("Now your own photographs: headstart retrain FOLDER --name NAME, a subfolder a class")


def _print_summary(summary: dict[str, Any]) -> None:
    say(typer.style(f"{summary['name']}: {summary['verdict']}", bold=True))
    for reason in summary["reasons"]:
        say(f"  {reason}")
    if test := summary["metrics"].get("test", {}):
        say(f"  test accuracy {test['accuracy']:.3f} on {test['n']} images")
    if left_out := summary["images"].get("left_out"):
        from tasks.storage.quarantine import count_by_reason  # imports pandas, which `--help` has no use for

        say(f"  left out {sum(left_out.values())} files: {count_by_reason(left_out)}")
    for what in ("model", "report"):
        if summary[what]:
            say(f"  {what}: {summary[what]}")
