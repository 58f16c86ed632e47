"""The routes of the review and its page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from deploy.review.guard import Guard
from deploy.review.session import Session
from deploy.serving.hosts import AllowedHosts, HostCheck
from deploy.serving.measured import problem
from tasks.errors import DecodeError, HeadstartError, SourceError, UsageError

PAGE_TYPES = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
DECODERS = 2  # pictures that are decoded at once: each may take a gigabyte
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Undo(BaseModel):
    """What the page asks for: `seen` is the last line about the image that it knows of."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sha256: Digest
    seen: int = Field(ge=0)


class Decide(Undo):
    label: str = Field(min_length=1, max_length=4096)


def create_app(
    session: Session, token: str, *, by: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> ASGIApp:
    """The ASGI application.

    Args:
        token: the first part of every path.
        by: who decides.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
    saving = asyncio.Lock()

    async def saved(write: Callable[..., bool], asked: Undo, *arguments: str) -> Response:
        """Writes a decision, and answers with the card: 409 where somebody else decided meanwhile."""
        when = now().isoformat(timespec="seconds")
        async with saving:
            done = await asyncio.to_thread(write, asked.sha256, *arguments, by=by, when=when, seen=asked.seen)
            card = await asyncio.to_thread(session.card, asked.sha256)
        return _json({"card": card}, 200 if done else 409)

    @app.get("/")
    @app.get("/page.css")
    @app.get("/page.js")
    async def page(request: Request) -> Response:
        name = request.scope["path"].strip("/") or "index.html"
        content = files("deploy.review").joinpath("page", name).read_bytes()
        return Response(content, media_type=PAGE_TYPES[name], headers=HEADERS)

    @app.get("/state")
    async def state() -> Response:
        return _json(await asyncio.to_thread(session.state))

    @app.get("/item/{size}/{sha256}")
    async def item(size: str, sha256: str) -> Response:
        looked = asyncio.get_running_loop().run_in_executor(decoders, session.item, sha256, size)
        content, media_type = await looked
        # The address is the content's digest, so it never changes.
        return Response(content, media_type=media_type, headers=HEADERS | {"Cache-Control": "private, max-age=3600"})

    @app.post("/decide")
    async def decide(asked: Decide) -> Response:
        return await saved(session.decide, asked, asked.label)

    @app.post("/undo")
    async def undo(asked: Undo) -> Response:
        return await saved(session.undo, asked)

    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _bad_request)
    app.add_exception_handler(HeadstartError, _fault)
    return Guard(HostCheck(app, AllowedHosts()), token)


def _json(content: Any, status: int = 200) -> Response:
    return JSONResponse(content, status, HEADERS)


async def _http_error(request: Request, exc: Any) -> Response:
    return problem(exc.status_code, str(exc.detail), HEADERS)


async def _bad_request(request: Request, exc: Any) -> Response:
    error = exc.errors()[0]
    return problem(400, f"{error['loc'][-1]!r}: {error['msg']}", HEADERS)


async def _fault(request: Request, exc: Any) -> Response:
    status = 404 if isinstance(exc, SourceError | DecodeError) else 400 if isinstance(exc, UsageError) else 500
    return problem(status, str(exc), HEADERS)
