"""`headstart quarantine list`, `release` and `drop`: what was left out."""

from __future__ import annotations

import typer

from flows.cli import options
from flows.cli.output import plain_errors, print_json, say
from tasks.workspace import Workspace, check_name

app = typer.Typer(help="What was left out and why; let it in, or leave it out for good.", no_args_is_help=True)


@app.command(name="list")
def list_quarantined(
    name: options.ModelName, workspace: options.Workspace = "./workspace", as_json: options.Json = False
) -> None:
    """List what was left out, and why: status, date, snapshot, digest, label, path and reason, a file a line."""
    from flows.cli.status import check_known
    from tasks.storage.quarantine import list_quarantine

    with plain_errors():
        place = Workspace(workspace)
        entries = list_quarantine(place, check_name(name))
        if not entries:
            check_known(place, name)
        if as_json:
            print_json({"quarantine": entries})
            return
        for entry in entries:
            seen = f"{entry['date'][:10]}  {entry['snapshot'] or '-':16}  {(entry['sha256'] or '-')[:12]:12}"
            say(f"{entry['status']:8}  {seen}  {entry['label'] or '-'}  {entry['path']}: {entry['reason']}")
        say(f"{len(entries)} left out")


@app.command()
def release(name: options.ModelName, files: options.Files, workspace: options.Workspace = "./workspace") -> None:
    """Let images in that an expectation rejected, from the next run on."""
    from tasks.storage.quarantine import release

    with plain_errors():
        say(f"{len(release(Workspace(workspace), check_name(name), files))} released")


@app.command()
def drop(name: options.ModelName, files: options.Files, workspace: options.Workspace = "./workspace") -> None:
    """Leave files out for good: later runs neither use nor report them. The files themselves are not touched."""
    from tasks.storage.quarantine import drop

    with plain_errors():
        say(f"{len(drop(Workspace(workspace), check_name(name), files))} dropped")
