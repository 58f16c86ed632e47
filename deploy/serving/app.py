"""The application: the routes over one model, the OpenAPI document, the page for people, and the look for versions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from deploy.serving.batching import Batcher
from deploy.serving.collecting import Collector
from deploy.serving.explaining import Explainer
from deploy.serving.hosts import AllowedHosts, HostCheck
from deploy.serving.limits import Limits
from deploy.serving.measured import problem
from deploy.serving.metrics import Metrics
from deploy.serving.model_slot import ModelSlot
from deploy.serving.pixel_budget import PixelBudget
from deploy.serving.requests import PendingBytes
from deploy.serving.routes import Server, own_version, router
from deploy.serving.schemas import InferenceRequest, TextBody, TextInferenceRequest
from tasks.errors import HeadstartError

log = logging.getLogger(__name__)

PAGE_FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js", "/why.js": "why.js"}
PAGE_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Application(FastAPI):
    """FastAPI with our own OpenAPI document."""

    def openapi(self) -> dict[str, Any]:
        """The document of the routes, with the body that `infer` reads by itself and the one name that is served.

        The 422 that FastAPI documents for each parameter is left out: here a wrong parameter is a 400 too.
        """
        if not self.openapi_schema:
            document = super().openapi()
            schemas = document["components"]["schemas"]
            for body in (InferenceRequest, TextInferenceRequest, TextBody):
                schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas |= {**schema.pop("$defs", {}), body.__name__: schema}
            del schemas["HTTPValidationError"], schemas["ValidationError"]
            for operation in (each for path in document["paths"].values() for each in path.values()):
                operation["responses"].pop("422", None)
                for parameter in operation.get("parameters", []):
                    if parameter["name"] == "name":
                        parameter["schema"] = {"enum": [self.state.server.slot.name]}
        return super().openapi()


def create_app(
    slot: ModelSlot,
    *,
    limits: Limits | None = None,
    metrics: Metrics | None = None,
    poll_s: float = 2.0,
    hosts: AllowedHosts | None = None,
    collector: Collector | None = None,
    show_training: bool = False,
) -> Application:
    """The ASGI application over `slot`, which it refreshes every `poll_s` seconds while it runs.

    Args:
        hosts: the names by which it may be asked; by default those of the loopback interface.
        collector: keeps a share of the images; closed with the application.
        show_training: show the training items that explanations name to other machines, too.
    """
    limits, metrics, hosts = limits or Limits(), metrics or Metrics(), hosts or AllowedHosts()
    batcher = Batcher(
        slot.infer,
        max_batch=lambda: min(limits.max_batch, slot.model.batch),
        max_waiting=limits.max_waiting,
        observe_batch=metrics.batches.observe,
    )
    pending = PendingBytes(limits.max_pending_bytes)
    server = Server(
        slot=slot,
        limits=limits,
        metrics=metrics,
        batcher=batcher,
        pending=pending,
        pixels=PixelBudget(limits.max_pixels_at_once),
        explainer=Explainer(slot=slot, limits=limits, shows_training=show_training or hosts.are_loopback),
        collector=collector,
    )
    metrics.watch(lambda: slot.model.version if slot.ready else 0, lambda: batcher.waiting)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        polling = asyncio.create_task(_poll(slot, poll_s))
        try:
            yield
        finally:
            polling.cancel()
            await asyncio.to_thread(batcher.close)
            if collector:
                await asyncio.to_thread(collector.close)
            server.explainer.close()
            server.decoders.shutdown(wait=False, cancel_futures=True)

    app = Application(
        title=f"headstart: {slot.name}",
        version=own_version(),
        description="A classifier of images or texts over HTTP: Open Inference Protocol v2, `/classify`, `/explain`.",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error},
        # Given, not included: an included router is searched twice a request, which took as long as all the rest.
        routes=[*router.routes, *(Route(path, _page) for path in PAGE_FILES)],
    )
    app.state.server = server
    app.add_middleware(HostCheck, hosts=hosts)
    return app


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


async def _http_error(request: Request, exc: HTTPException) -> Response:
    return problem(exc.status_code, f"{request.method} {request.url.path}: {exc.detail}", dict(exc.headers or {}))


async def _poll(slot: ModelSlot, poll_s: float) -> None:
    while True:
        await asyncio.sleep(poll_s)
        try:
            await asyncio.to_thread(slot.refresh)
        except HeadstartError as exc:
            log.error("can't look for new versions of %s: %s", slot.name, exc)
