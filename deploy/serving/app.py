"""The routes: the Open Inference Protocol v2, `POST /classify`, metrics, and a page for people."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from importlib.resources import files
from typing import Any

import numpy as np
import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from deploy.serving import protocol
from deploy.serving.batching import Batcher
from deploy.serving.limits import Limits
from deploy.serving.metrics import Metrics
from deploy.serving.model import Answer, ServedModel
from deploy.serving.model_slot import ModelSlot
from deploy.serving.openapi import document
from deploy.serving.requests import PendingBytes, decode_image, image_bytes, read_body
from tasks.errors import HeadstartError, RequestError
from tasks.networks.onnx_session import available_cores

log = logging.getLogger(__name__)

TOP_CLASSES = 5
PAGE_FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
PAGE_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
Handler = Callable[["Server", Request], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Server:
    """What the routes share."""

    slot: ModelSlot
    limits: Limits
    metrics: Metrics
    batcher: Batcher
    pending: PendingBytes
    decoders: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(available_cores(), thread_name_prefix="decode")
    )

    async def answer(self, images: np.ndarray) -> list[Answer]:
        """Answers uint8 [N, H, W, 3]. Raises RequestError (503): no room, no model or no time."""
        self.slot.model  # noqa: B018 - raises before anything waits
        answers = asyncio.wrap_future(self.batcher.submit(images))
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                return await answers
        except TimeoutError:
            raise RequestError(503, f"the model did not answer within {self.limits.timeout_s:g} s") from None

    async def off_loop(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Runs what takes a while beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.decoders, work, *arguments)


def create_app(
    slot: ModelSlot, *, limits: Limits | None = None, metrics: Metrics | None = None, poll_s: float = 2.0
) -> Starlette:
    """The ASGI application over `slot`, which it refreshes every `poll_s` seconds while it runs."""
    limits, metrics = limits or Limits(), metrics or Metrics()
    batcher = Batcher(
        slot.infer,
        max_batch=lambda: min(limits.max_batch, slot.model.batch),
        max_waiting=limits.max_waiting,
        observe_batch=metrics.batches.observe,
    )
    server = Server(
        slot=slot,
        limits=limits,
        metrics=metrics,
        batcher=batcher,
        pending=PendingBytes(limits.max_pending_bytes),
    )
    metrics.watch(lambda: slot.model.version if slot.ready else 0, lambda: batcher.waiting)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        polling = asyncio.create_task(_poll(slot, poll_s))
        try:
            yield
        finally:
            polling.cancel()
            await asyncio.to_thread(batcher.close)
            server.decoders.shutdown(wait=False, cancel_futures=True)

    handlers: dict[Any, Any] = {HTTPException: _http_error, RequestError: _request_error}
    return Starlette(routes=_routes(server), lifespan=lifespan, exception_handlers=handlers)


def _routes(server: Server) -> list[Route]:
    model = "/v2/models/{name}"
    version = model + "/versions/{version}"
    gets: dict[str, Handler] = {
        "/v2": _server_metadata,
        "/v2/health/live": _live,
        "/v2/health/ready": _ready,
        "/about": _about,
        "/metrics": _metrics,
        "/openapi.json": _openapi,
    }
    posts: dict[str, Handler] = {"/classify": _classify, "/v2/repository/index": _repository_index}
    for base in (model, version):
        gets |= {base: _model_metadata, f"{base}/ready": _model_ready, f"{base}/config": _model_config}
        posts |= {f"{base}/infer": _infer}
    routes = [Route(path, _page, methods=["GET"]) for path in PAGE_FILES]
    routes += [_route(server, path, handler, "GET") for path, handler in gets.items()]
    return routes + [_route(server, path, handler, "POST") for path, handler in posts.items()]


def _route(server: Server, path: str, handler: Handler, method: str) -> Route:
    """A route whose requests are timed and counted under its pattern."""

    async def endpoint(request: Request) -> Response:
        started = time.perf_counter()
        try:
            response = await handler(server, request)
        except RequestError as exc:
            response = await _request_error(request, exc)
        except ClientDisconnect:
            response = Response(status_code=499)  # nobody is there to read it; the count is what is wanted
        except Exception:  # a fault of ours: it is logged in full, and the client learns no more than that
            log.exception("%s %s failed", request.method, request.url.path)
            response = _json({"error": "a fault in the server; its log says more"}, 500)
        server.metrics.latency.labels(path).observe(time.perf_counter() - started)
        server.metrics.requests.labels(path, str(response.status_code)).inc()
        return response

    return Route(path, endpoint, methods=[method])


async def _classify(server: Server, request: Request) -> Response:
    top = _top(request)
    with server.pending.account() as account:
        body = await read_body(request, account, server.limits)
        content = await image_bytes(request, body, server.limits)
        pixels = await server.off_loop(decode_image, content, server.limits)
        account.add(pixels.nbytes)
        (answer,) = await server.answer(pixels[None])
    return _json(_classes(answer, pixels, top))


def _top(request: Request) -> int:
    text = request.query_params.get("top", str(TOP_CLASSES))
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise RequestError(400, f"'top' has to be a number of classes, 1 or more; found {text!r}")
    return int(text)


def _classes(answer: Answer, pixels: np.ndarray, top: int) -> dict[str, Any]:
    order = np.argsort(-answer.probabilities, kind="stable")[:top]
    return {
        "model": answer.model.name,
        "version": answer.model.version,
        "label": answer.label,
        "probability": float(answer.probabilities.max()),
        "classes": [
            {"label": answer.model.labels[index], "probability": float(answer.probabilities[index])} for index in order
        ],
        "image": {"width_px": pixels.shape[1], "height_px": pixels.shape[0]},
    }


async def _infer(server: Server, request: Request) -> Response:
    _named_model(server, request)
    with server.pending.account() as account:
        body = await read_body(request, account, server.limits)
        header_length = request.headers.get(protocol.HEADER_LENGTH)
        wanted = await server.off_loop(protocol.parse_infer_request, body, header_length, server.limits)
        account.add(wanted.images.nbytes)
        answers = await server.answer(wanted.images)
    content, json_length = await server.off_loop(protocol.infer_response, wanted, answers)
    if json_length is None:
        return Response(content, media_type="application/json")
    headers = {protocol.HEADER_LENGTH: str(json_length)}
    return Response(content, media_type="application/octet-stream", headers=headers)


def _named_model(server: Server, request: Request) -> ServedModel:
    """The model that answers, where it is the one of the path. Raises RequestError: 404, or 503 for none."""
    name, version = request.path_params["name"], request.path_params.get("version")
    if name != server.slot.name:
        raise RequestError(404, f"there is no model {name!r} here; this server has {server.slot.name!r}")
    model = server.slot.model
    if version not in (None, str(model.version)):
        raise RequestError(404, f"version {version!r} is not served; version {model.version} is")
    return model


async def _server_metadata(server: Server, request: Request) -> Response:
    return _json(protocol.server_metadata(_own_version()))


async def _live(server: Server, request: Request) -> Response:
    return _json({"live": True})


async def _ready(server: Server, request: Request) -> Response:
    return _json({"ready": server.slot.ready, **_refused(server)}, 200 if server.slot.ready else 503)


async def _model_ready(server: Server, request: Request) -> Response:
    model = _named_model(server, request)
    return _json({"name": model.name, "ready": True})


async def _model_metadata(server: Server, request: Request) -> Response:
    return _json(protocol.model_metadata(_named_model(server, request)))


async def _model_config(server: Server, request: Request) -> Response:
    return _json(protocol.model_config(_named_model(server, request)))


async def _repository_index(server: Server, request: Request) -> Response:
    if not server.slot.ready:
        return _json([])
    model = server.slot.model
    return _json([{"name": model.name, "version": str(model.version), "state": "READY"}])


async def _about(server: Server, request: Request) -> Response:
    model = server.slot.model
    return _json(
        {
            "name": model.name,
            "version": model.version,
            "labels": model.labels,
            "max_body_bytes": server.limits.max_body_bytes,
            **_refused(server),
        }
    )


def _refused(server: Server) -> dict[str, Any]:
    """Newer versions that are not served, with why."""
    serving = server.slot.model.version if server.slot.ready else 0
    refusals = sorted(server.slot.refusals.values(), key=lambda refusal: refusal.version)
    return {"refused": [{"version": r.version, "reasons": r.reasons} for r in refusals if r.version > serving]}


async def _openapi(server: Server, request: Request) -> Response:
    return _json(document(server.slot.name, _own_version()))


async def _metrics(server: Server, request: Request) -> Response:
    return Response(server.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _page(request: Request) -> Response:
    name = PAGE_FILES[request.url.path]
    headers = {
        "Content-Security-Policy": PAGE_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    content = files("deploy.serving").joinpath("page", name).read_bytes()
    return Response(content, media_type=PAGE_TYPES[name.rsplit(".", 1)[-1]], headers=headers)


async def _request_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestError)
    response = _json({"error": str(exc)}, exc.http_status)
    if exc.http_status == 503:
        response.headers["Retry-After"] = "1"
    if exc.http_status in (408, 413):
        response.headers["Connection"] = "close"  # the rest of the body is not wanted
    return response


async def _http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    return Response(
        orjson.dumps({"error": f"{request.method} {request.url.path}: {exc.detail}"}),
        status_code=exc.status_code,
        media_type="application/json",
        headers=exc.headers,
    )


async def _poll(slot: ModelSlot, poll_s: float) -> None:
    while True:
        await asyncio.sleep(poll_s)
        try:
            await asyncio.to_thread(slot.refresh)
        except HeadstartError as exc:
            log.error("can't look for new versions of %s: %s", slot.name, exc)


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status_code=status, media_type="application/json")


def _own_version() -> str:
    try:
        return package_version("headstart")
    except PackageNotFoundError:  # the slim image runs the source itself
        return "unknown"
