"""`headstart clean` and `headstart config`."""

from __future__ import annotations

import typer

from flows.cli import options
from flows.cli.output import plain_errors, print_json, say
from tasks.workspace import Workspace

app = typer.Typer()


@app.command()
def clean(
    dry_run: options.DryRun = False,
    workspace: options.Workspace = "./workspace",
    as_json: options.Json = False,
) -> None:
    """Free space: merge small parts, remove what no model needs any more. Models and snapshots are never touched."""
    from flows.cli.clean import clean, cleaned_text

    with plain_errors():
        done = clean(Workspace(workspace), dry_run=dry_run)
        if as_json:
            print_json(done.as_dict())
        else:
            say(cleaned_text(done))


@app.command()
def config() -> None:
    """List every key of the configuration with its default and its meaning."""
    from flows.cli.config_table import config_lines

    say("\n".join(config_lines()))
