"""The routes: the Open Inference Protocol v2, `/classify`, `/explain`, metrics, and the requests of the web page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST

from deploy.serving import protocol, schemas
from deploy.serving.batching import Batcher
from deploy.serving.collecting import Collector
from deploy.serving.explaining import Explainer
from deploy.serving.limits import Limits
from deploy.serving.measured import MeasuredRoute
from deploy.serving.metrics import Metrics
from deploy.serving.model import Answer
from deploy.serving.model_slot import ModelSlot
from deploy.serving.pixel_budget import PixelBudget
from deploy.serving.requests import Account, PendingBytes, decode_image, image_bytes, opened_image, read_body, text_of
from tasks.errors import DecodeError, RequestError
from tasks.networks.onnx_session import available_cores

TOP_CLASSES = 5
TEXT_COST_PIXELS = 100_000  # a text's part of the room that images and texts have together: 300 at once
REASONS = {
    400: "The request is not one that can be answered: `error` says why.",
    404: "There is no such model or version here.",
    408: "The body did not arrive in time.",
    413: "The body or the image is larger than is allowed here.",
    415: "The body is of another type, or compressed in another way, than is understood.",
    503: "There is no model yet, too much to do, or no answer in time: ask again.",
}
UNEXPLAINED = "The graph of the model can't be cut where an explanation needs it."
OF_A_BODY = (400, 408, 413, 415, 503)
BINARY = {"schema": {"type": "string", "format": "binary"}}
IMAGE_BODY = {
    "required": True,
    "content": {
        "image/*": BINARY,
        "application/octet-stream": BINARY,
        "application/json": {"schema": {"$ref": "#/components/schemas/TextBody"}},
        "multipart/form-data": {
            "schema": {"type": "object", "properties": {"image": BINARY["schema"]}, "required": ["image"]}
        },
    },
}
# Its JSON is read by hand, off the event loop and within the limits; `app.py` adds the schema to the document.
INFERENCE_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "anyOf": [
                    {"$ref": "#/components/schemas/InferenceRequest"},
                    {"$ref": "#/components/schemas/TextInferenceRequest"},
                ]
            }
        },
        "application/octet-stream": BINARY,
    },
}


@dataclass(frozen=True, kw_only=True)
class Server:
    """What the routes share."""

    slot: ModelSlot
    limits: Limits
    metrics: Metrics
    batcher: Batcher
    pending: PendingBytes
    pixels: PixelBudget
    explainer: Explainer
    collector: Collector | None = None
    decoders: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(available_cores(), thread_name_prefix="decode")
    )

    async def answer(self, images: np.ndarray) -> list[Answer]:
        """Answers uint8 [N, H, W, 3]. Raises RequestError (503): no room, no model or no time."""
        self.slot.model  # noqa: B018 - raises before anything waits
        answers = asyncio.wrap_future(self.batcher.submit(images))
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                found = await answers
        except TimeoutError:
            raise RequestError(503, f"the model did not answer within {self.limits.timeout_s:g} s") from None
        self.metrics.count(answer.familiar for answer in found)
        return found

    async def answer_texts(self, texts: Sequence[str]) -> list[Answer]:
        """Answers texts, all of them by one version.

        Raises:
            RequestError: 400 for a text that is empty or too long; 503 for no room, no model or no time.
        """
        model = self.slot.model
        try:
            async with self.room(TEXT_COST_PIXELS * len(texts)), asyncio.timeout(self.limits.timeout_s):
                found = await self.off_loop(model.infer_texts, texts)
        except TimeoutError:
            raise RequestError(503, f"the model did not answer within {self.limits.timeout_s:g} s") from None
        except DecodeError as exc:
            raise RequestError(400, f"the text can't be used: {exc}") from None
        self.metrics.count(answer.familiar for answer in found)
        return found

    @asynccontextmanager
    async def room(self, pixels: int) -> AsyncIterator[None]:
        """Waits for its turn where many pixels are worked on. Raises RequestError (503) where that takes too long."""
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self.limits.timeout_s):
                    await held.enter_async_context(self.pixels.hold(pixels))
            except TimeoutError:
                raise RequestError(503, f"larger images were under way for {self.limits.timeout_s:g} s") from None
            yield

    async def off_loop(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Runs work that takes a while outside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.decoders, work, *arguments)

    def refused(self) -> list[schemas.RefusedVersion]:
        """Newer versions that are not served, with why."""
        serving = self.slot.model.version if self.slot.ready else 0
        refusals = sorted(self.slot.refusals.values(), key=lambda refusal: refusal.version)
        return [schemas.RefusedVersion(version=r.version, reasons=r.reasons) for r in refusals if r.version > serving]


def _server(request: Request) -> Server:
    return request.app.state.server  # a dependency would cost 40 us a request


Top = Annotated[int, schemas.digits("classes", at_least=1), Query(ge=1, description="Of how many classes")]
HeaderLength = Annotated[
    Annotated[int, schemas.digits("bytes", at_least=0)] | None,
    Header(alias=protocol.HEADER_LENGTH, ge=0, description="Bytes of JSON; tensors follow as bytes"),
]


async def _of_name(request: Request, name: str) -> None:
    served = _server(request).slot.name
    if name != served:
        raise RequestError(404, f"there is no model {name!r} here; this server has {served!r}")


async def _of_version(request: Request, name: str, version: str) -> None:
    await _of_name(request, name)
    served = _server(request).slot.model.version
    if version != str(served):
        raise RequestError(404, f"version {version!r} is not served; version {served} is")


router = APIRouter(route_class=MeasuredRoute)
Endpoint = Callable[..., Any]


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": schemas.Problem, "description": REASONS[status]} for status in statuses}


def _of_a_model(method: str, path: str, *statuses: int, **declared: Any) -> Callable[[Endpoint], Endpoint]:
    """Declares a route below a model's name, and below each of its versions."""
    responses = {**_refusals(404, 503, *statuses), **declared.pop("responses", {})}
    bases = {"/v2/models/{name}": _of_name, "/v2/models/{name}/versions/{version}": _of_version}

    def declare(endpoint: Endpoint) -> Endpoint:
        for base, check in bases.items():
            options = {"methods": [method], "dependencies": [Depends(check)], "responses": responses, **declared}
            router.add_api_route(base + path, endpoint, **options)
        return endpoint

    return declare


@router.post("/classify", responses=_refusals(*OF_A_BODY), openapi_extra={"requestBody": IMAGE_BODY})
async def classify(request: Request, top: Top = TOP_CLASSES) -> schemas.Classification:
    """Answers one image file, the body itself or the one file of a form; or the `text` of a JSON object."""
    server = _server(request)
    with server.pending.account() as account:
        body = await read_body(request, account, server.limits)
        if server.slot.model.task == "text":
            return await _classify_text(server, text_of(request, body), top)
        content = await image_bytes(request, body, server.limits)
        image = await server.off_loop(opened_image, content, server.limits)
        async with _decoded(server, account, image) as pixels:
            (answer,) = await server.answer(pixels[None])
    if server.collector:
        server.collector.offer([content], [answer], image.format)
    size = schemas.ImageSize(width_px=pixels.shape[1], height_px=pixels.shape[0])
    return _classification(answer, top, size)


@asynccontextmanager
async def _decoded(server: Server, account: Account, image: Image.Image) -> AsyncIterator[np.ndarray]:
    """The pixels of an image, uint8 [H, W, 3], and room to work on them."""
    width, height = image.size
    async with server.room(width * height):
        account.add(3 * width * height)  # of the pixels in RGB, before they are there
        yield await server.off_loop(decode_image, image)


async def _classify_text(server: Server, text: str, top: int) -> schemas.Classification:
    (answer,) = await server.answer_texts([text])
    if server.collector:
        server.collector.offer([text.encode()], [answer], "TEXT")
    return _classification(answer, top, None)


def _classification(answer: Answer, top: int, size: schemas.ImageSize | None) -> schemas.Classification:
    order = np.argsort(-answer.probabilities, kind="stable")[:top]
    classes = [
        schemas.ClassProbability(label=answer.model.labels[i], probability=answer.probabilities[i]) for i in order
    ]
    return schemas.Classification(
        model=answer.model.name,
        version=answer.model.version,
        label=answer.label,
        probability=answer.probabilities.max(),
        classes=classes,
        image=size,
        familiarity=answer.familiarity,
        familiar=answer.familiar,
    )


@router.post(
    "/explain",
    responses={**_refusals(*OF_A_BODY), 404: {"model": schemas.Problem, "description": UNEXPLAINED}},
    openapi_extra={"requestBody": IMAGE_BODY},
)
async def explain(request: Request) -> schemas.Explanation:
    """Says why `/classify` answers as it does: where the evidence lies, and the most similar training items."""
    server = _server(request)
    model = server.slot.model  # raises before the body is read
    with server.pending.account() as account:
        body = await read_body(request, account, server.limits)
        if model.task == "text":
            text = text_of(request, body)
            async with server.explainer.turn(), server.room(TEXT_COST_PIXELS):
                return await server.explainer.text(model, text)
        content = await image_bytes(request, body, server.limits)
        image = await server.off_loop(opened_image, content, server.limits)
        # The turn first: who waits for it holds no room that an answer needs.
        async with server.explainer.turn(), _decoded(server, account, image) as pixels:
            return await server.explainer.image(model, content, pixels)


@_of_a_model(
    "POST",
    "/infer",
    *OF_A_BODY,
    responses={200: {"model": schemas.InferenceResponse, "content": {"application/octet-stream": BINARY}}},
    openapi_extra={"requestBody": INFERENCE_BODY},
)
async def infer(request: Request, header_length: HeaderLength = None) -> Response:
    """Answers images or texts: JSON, and behind it tensors as bytes where a header gives the length of the JSON."""
    server = _server(request)
    task = server.slot.model.task  # raises before the body is read
    with server.pending.account() as account:
        body = await read_body(request, account, server.limits)
        wanted = await server.off_loop(protocol.parse_infer_request, body, header_length, server.limits, task)
        if wanted.texts:
            answers = await server.answer_texts(wanted.texts)
        else:
            account.add(wanted.images.nbytes)
            async with server.room(wanted.images.size // 3):
                answers = await server.answer(wanted.images)
    if server.collector and wanted.texts:
        server.collector.offer([text.encode() for text in wanted.texts], answers, "TEXT")
    elif server.collector:
        server.collector.offer(wanted.images, answers)
    content, json_length = await server.off_loop(protocol.infer_response, wanted, answers)
    if json_length is None:
        return Response(content, media_type="application/json")
    headers = {protocol.HEADER_LENGTH: str(json_length)}
    return Response(content, media_type="application/octet-stream", headers=headers)


@_of_a_model("GET", "")
async def model_metadata(request: Request) -> schemas.ModelMetadata:
    """The model's inputs and outputs."""
    return protocol.model_metadata(_server(request).slot.model)


@_of_a_model("GET", "/ready")
async def model_ready(request: Request) -> schemas.ModelReadiness:
    """Whether the model is ready."""
    return schemas.ModelReadiness(name=_server(request).slot.model.name, ready=True)


@_of_a_model("GET", "/config")
async def model_config(request: Request) -> dict[str, Any]:
    """The model's configuration, in Triton's form."""
    return protocol.model_config(_server(request).slot.model)


@router.get("/v2")
async def server_metadata() -> schemas.ServerMetadata:
    """The server and its extensions."""
    return schemas.ServerMetadata(name="headstart", version=own_version(), extensions=protocol.EXTENSIONS)


@router.get("/v2/health/live")
async def live() -> schemas.Liveness:
    """Whether the server runs."""
    return schemas.Liveness(live=True)


@router.get("/v2/health/ready", responses={503: {"model": schemas.Readiness, "description": "Not yet"}})
async def ready(request: Request, response: Response) -> schemas.Readiness:
    """Whether the server is live."""
    server = _server(request)
    response.status_code = 200 if server.slot.ready else 503
    return schemas.Readiness(ready=server.slot.ready, refused=server.refused())


@router.post("/v2/repository/index")
async def repository_index(request: Request) -> list[schemas.IndexEntry]:
    """The models here."""
    server = _server(request)
    if not server.slot.ready:
        return []
    return [schemas.IndexEntry(name=server.slot.name, version=str(server.slot.model.version), state="READY")]


@router.get("/about", responses=_refusals(503))
async def about(request: Request) -> schemas.About:
    """The model in service, and refused versions."""
    server = _server(request)
    model = server.slot.model
    return schemas.About(
        name=model.name,
        version=model.version,
        labels=model.labels,
        task=model.task,
        max_body_bytes=server.limits.max_body_bytes,
        collected_share=server.collector.share if server.collector else 0,
        refused=server.refused(),
    )


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Prometheus's metrics."""
    return Response(_server(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def own_version() -> str:
    try:
        return package_version("headstart")
    except PackageNotFoundError:  # the slim image runs the source itself
        return "unknown"
