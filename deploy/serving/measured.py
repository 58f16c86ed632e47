"""A route whose requests are timed and counted, and whose errors become answers of one form: `{"error": …}`."""

from __future__ import annotations

import logging
import reprlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from tasks.display import visible
from tasks.errors import RequestError

log = logging.getLogger(__name__)

CLOSE = {"Connection": "close"}  # the rest of the body is not wanted
HEADERS = {408: CLOSE, 413: CLOSE, 503: {"Retry-After": "1"}}


class MeasuredRoute(APIRoute):
    """Counts under its own pattern, in the application's `state.server.metrics`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler, pattern = super().get_route_handler(), self.path

        async def measured(request: Request) -> Response:
            started = time.perf_counter()
            try:
                response = await handler(request)
            except Exception as exc:  # noqa: BLE001 - every error is counted and answered
                response = _failure(request, exc)
            metrics = request.app.state.server.metrics
            metrics.latency.labels(pattern).observe(time.perf_counter() - started)
            metrics.requests.labels(pattern, str(response.status_code)).inc()
            return response

        return measured

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers HEAD as it answers GET, as Starlette's own routes do; uvicorn leaves out the body."""
        if scope["method"] == "HEAD" and "GET" in self.methods:
            scope = {**scope, "method": "GET"}
        await super().handle(scope, receive, send)


def problem(status: int, reason: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": reason}, status, headers)


def _failure(request: Request, exc: Exception) -> Response:
    if isinstance(exc, RequestError):
        return problem(exc.http_status, str(exc), HEADERS.get(exc.http_status))
    if isinstance(exc, RequestValidationError):
        error = exc.errors()[0]
        return problem(400, f"{error['loc'][-1]!r} {error['msg']}; found {reprlib.repr(error['input'])}")
    if isinstance(exc, ClientDisconnect):
        return Response(status_code=499)  # the client has gone; only the count matters
    # A fault of ours: it is logged in full, and the client learns no more than that.
    log.error("%s %s failed", request.method, visible(request.url.path), exc_info=exc)
    return problem(500, "a fault in the server; its log says more")
