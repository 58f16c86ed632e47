"""`headstart review`: the application under uvicorn, on loopback alone."""

from __future__ import annotations

from collections.abc import Callable

from deploy.review.app import create_app
from deploy.review.guard import new_token
from deploy.review.session import LIKELY, Session, open_session
from deploy.serving.listening import listen
from tasks.workspace import Workspace, check_name

HOST = "127.0.0.1"


def review(
    workspace: Workspace, name: str, *, by: str, port: int = 0, on_start: Callable[[str, Session], None]
) -> None:
    """Shows the doubtful labels of a model's latest run until SIGINT or SIGTERM, and keeps what is decided.

    Args:
        by: who decides.
        port: of the loopback interface; 0 takes a free one.
        on_start: told the address, which holds the token, and what is shown.

    Raises:
        UsageError: no run has reviewed its labels, or the port is taken.
        WorkspaceError: the workspace can't be written.
    """
    session = open_session(workspace, check_name(name))
    workspace.check_writable()
    token = new_token()
    app = create_app(session, token, by=by)
    listen(app, host=HOST, port=port, on_start=lambda url: on_start(f"{url}/{token}/", session))


def likely(session: Session) -> int:
    """How many cards are more likely wrong than right, or lie in two classes."""
    return sum(card["wrong"] is None or card["wrong"] > LIKELY for card in session.cards.values())
