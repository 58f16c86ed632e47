"""`headstart status`, `rollback`, `promote` and `verify`: the published models."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer

from flows.cli import options
from flows.cli.output import plain_errors, print_json, say
from tasks.errors import HeadstartError
from tasks.workspace import Workspace, check_name

app = typer.Typer()


@app.command()
def status(
    name: options.AnyModelName = None,
    workspace: options.Workspace = "./workspace",
    as_json: options.Json = False,
) -> None:
    """Show the champion, the history, and the last decision with its reasons."""
    from flows.cli.status import model_status, status_text
    from tasks.storage.repository import published_models

    with plain_errors():
        place = Workspace(workspace)
        names = [check_name(name)] if name else published_models(place)
        found = [model_status(place, each) for each in names]
        if as_json:
            print_json(found[0] if name else {"models": found})
        else:
            say("\n\n".join(map(status_text, found)) or f"no models in {workspace} yet; run headstart retrain")


@app.command()
def rollback(
    name: options.ModelName,
    to: options.To = None,
    workspace: options.Workspace = "./workspace",
    as_json: options.Json = False,
) -> None:
    """Publish an earlier version again, as a new one."""
    from tasks.publish.rollback import roll_back

    with plain_errors():
        done = roll_back(Workspace(workspace), check_name(name), to)
        if as_json:
            print_json(done)
        else:
            say(f"{name}: version {done['restored']} is in service again, as version {done['version']}")


@app.command()
def promote(
    run: options.RefusedRun,
    by: options.By,
    reason: options.Reason,
    workspace: options.Workspace = "./workspace",
    as_json: options.Json = False,
) -> None:
    """Publish a candidate that the gates refused, under a name and with a reason, which its model card will show.

    Gates that had no evidence, parity, and a file that does not serve can't be overridden: exit status 3.
    """
    from tasks.publish.promote import promote as promote_run
    from tasks.report.page import write_report

    with plain_errors():
        promoted, done = promote_run(Workspace(workspace), run, by=by, reason=reason)
        write_report(promoted)
        if as_json:
            print_json(done)
        else:
            say(f"{done['name']}: the candidate of {run} is in service as version {done['version']}")


@app.command()
def verify(
    model_dir: options.ModelDir,
    workspace: options.Workspace = "./workspace",
    public_key: options.PublicKey = None,
    as_json: options.Json = False,
) -> None:
    """Check a published version: digests, signature, graph, parity evidence and gate decision.

    A version's folder anywhere, or a model's name: then the champion of the workspace.

    Exit status: 0 all is well; 1 something is not.
    """
    from tasks.publish.verify import verify as verify_version
    from tasks.storage.repository import champion, version_path

    with plain_errors():
        place = Workspace(workspace)
        if (
            "/" not in model_dir
            and not Path(model_dir).exists()
            and (version := champion(place, check_name(model_dir)))
        ):
            model_dir = place.display(version_path(model_dir, version))
        found = verify_version(model_dir, public_key=public_key)
        if as_json:
            print_json({"model_dir": model_dir, "ok": found.ok, "checks": [asdict(check) for check in found.checks]})
        else:
            marks = {True: "ok  ", False: "FAIL", None: "-   "}
            for check in found.checks:
                say(f"{marks[check.passed]} {check.name}: {check.detail}")
    raise typer.Exit(0 if found.ok else HeadstartError.exit_status)
