"""`headstart review`: doubtful labels, looked through on a local page."""

from __future__ import annotations

import typer

from flows.cli import options
from flows.cli.output import plain_errors
from tasks.processes import collect_as_usual
from tasks.workspace import Workspace, check_name

app = typer.Typer()


@app.command()
def review(
    name: options.ModelName,
    by: options.Reviewer = None,
    port: options.Port = 0,
    workspace: options.Workspace = "./workspace",
) -> None:
    """Show doubtful labels on a local page: right, another class, or drop. The next retrain takes what you decide."""
    from deploy.review.server import likely
    from deploy.review.server import review as show
    from deploy.review.session import Session
    from flows.cli.status import check_known

    def on_start(url: str, session: Session) -> None:
        collect_as_usual()
        count = len(session.cards)
        typer.echo(f"{name}: {count} labels to look at, {likely(session)} of them likely wrong", err=True)
        typer.echo(f"open {url} (Ctrl-C stops it; each decision is kept at once)", err=True)

    with plain_errors():
        place = Workspace(workspace)
        check_known(place, check_name(name))
        show(place, name, by=by or _user(), port=port, on_start=on_start)


def _user() -> str:
    """The name of the user; in a container the system may not know one."""
    from getpass import getuser

    try:
        return getuser()
    except (OSError, KeyError):
        return "unknown"
