"""Who may ask: whoever knows the token of this start, which is the first part of every path.

It stands before the check of `Host` and `Origin` (`deploy.serving.hosts`): another page in the same browser, or another
user of the machine, knows the port but not the token.
"""

from __future__ import annotations

import secrets

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.serving.measured import problem

MAX_BODY_BYTES = 16 * 1024


def new_token() -> str:
    """192 random bits, as a part of a URL."""
    return secrets.token_urlsafe(24)


class Guard:
    """Answers 404 to paths without the token, and 413 to bodies that are larger than a decision or don't say."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        token, slash, rest = scope["path"].removeprefix("/").partition("/")
        if not secrets.compare_digest(token.encode(errors="replace"), self._token):
            await problem(404, "open the address that `headstart review` printed")(scope, receive, send)
        elif not slash:
            await problem(308, "a slash is missing", {"Location": f"{scope['path']}/"})(scope, receive, send)
        elif scope["method"] == "POST" and not _is_small(Headers(scope=scope)):
            refusal = problem(
                413, f"a decision has at most {MAX_BODY_BYTES} bytes, and says so", {"Connection": "close"}
            )
            await refusal(scope, receive, send)
        else:
            await self._app({**scope, "path": f"/{rest}", "raw_path": b""}, receive, send)


def _is_small(headers: Headers) -> bool:
    length = headers.get("content-length", "")
    return length.isascii() and length.isdigit() and len(length) < 9 and int(length) <= MAX_BODY_BYTES
