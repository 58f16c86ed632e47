"""The OpenAPI document of the routes, `GET /openapi.json`: for clients that are generated, and tests that are.

The Open Inference Protocol has far more than a server of one model needs; what is here is what this server answers.
"""

from __future__ import annotations

from typing import Any

from deploy.serving.protocol import HEADER_LENGTH, INPUT, OUTPUTS

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 1}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
BINARY: Schema = {"type": "string", "format": "binary"}

REASONS = {
    "400": "The request is not one that can be answered: `error` says why.",
    "404": "There is no such model or version here.",
    "408": "The body did not arrive in time.",
    "413": "The body or the image is larger than is allowed here.",
    "415": "The body is of another type, or compressed in another way, than is understood.",
    "503": "There is no model yet, too much to do, or no answer in time: ask again.",
}
OF_A_BODY = ("400", "408", "413", "415", "503")


def document(name: str, version: str) -> dict[str, Any]:
    """OpenAPI 3.1 of a server of the model `name`; `version` is headstart's own."""
    paths: dict[str, Any] = {
        "/v2": {"get": _get("The server and its extensions", SERVER)},
        "/v2/health/live": {"get": _get("Whether the server runs", _object(live={"type": "boolean"}))},
        "/v2/health/ready": {"get": _ready()},
        "/v2/repository/index": {"post": _get("The models here", _list(INDEX_ENTRY))},
        "/about": {"get": _get("The model that answers, and refused versions", ABOUT, "503")},
        "/metrics": {"get": _operation("Prometheus's metrics", {"text/plain": {"schema": TEXT}})},
        "/classify": {"post": _classify()},
    }
    model = {"name": _path_parameter("name", {"enum": [name]})}
    one_version = {**model, "version": _path_parameter("version", TEXT)}
    for base, parameters in (
        ("/v2/models/{name}", model),
        ("/v2/models/{name}/versions/{version}", one_version),
    ):
        for path, method, operation in _of_a_model(base):
            paths[path] = {"parameters": list(parameters.values()), method: operation}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"headstart: {name}",
            "version": version,
            "description": "An image classifier over HTTP: the Open Inference Protocol v2, and `POST /classify`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
    }


def _of_a_model(base: str) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (base, "get", _get("Its inputs and outputs", MODEL, "404", "503")),
        (
            f"{base}/ready",
            "get",
            _get("Whether it answers", _object(name=TEXT, ready={"type": "boolean"}), "404", "503"),
        ),
        (f"{base}/config", "get", _get("Its configuration, as Triton says it", {"type": "object"}, "404", "503")),
        (f"{base}/infer", "post", _infer()),
    ]


def _infer() -> dict[str, Any]:
    answers = {"application/json": {"schema": INFER_RESPONSE}, "application/octet-stream": {"schema": BINARY}}
    operation = _operation("Answers images", answers, "404", *OF_A_BODY)
    # Behind JSON come tensors as bytes where the header says how long the JSON is.
    operation["parameters"] = [{"name": HEADER_LENGTH, "in": "header", "schema": {"type": "integer", "minimum": 0}}]
    operation["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": INFER_REQUEST}, "application/octet-stream": {"schema": BINARY}},
    }
    return operation


def _classify() -> dict[str, Any]:
    operation = _get("Answers one image file", CLASSES, *OF_A_BODY)
    operation["parameters"] = [{"name": "top", "in": "query", "schema": COUNT, "description": "Of how many classes"}]
    form = _object(image=BINARY)
    operation["requestBody"] = {
        "required": True,
        "content": {kind: {"schema": BINARY} for kind in ("image/*", "application/octet-stream")}
        | {"multipart/form-data": {"schema": form}},
    }
    return operation


def _ready() -> dict[str, Any]:
    operation = _get("Whether the server answers", READY)
    operation["responses"]["503"] = {"description": "Not yet", "content": _json(READY)}
    return operation


def _get(summary: str, answer: Schema, *refusals: str) -> dict[str, Any]:
    return _operation(summary, _json(answer), *refusals)


def _operation(summary: str, answers: dict[str, Any], *refusals: str) -> dict[str, Any]:
    responses = {"200": {"description": summary, "content": answers}}
    error = _json(_object(error=TEXT))
    return {
        "summary": summary,
        "responses": responses | {status: {"description": REASONS[status], "content": error} for status in refusals},
    }


def _path_parameter(name: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": items, **bounds}


def _with_optional(schema: Schema, **properties: Schema) -> Schema:
    return {**schema, "properties": {**schema["properties"], **properties}}


SERVER = _object(name=TEXT, version=TEXT, extensions=_list(TEXT))
TENSOR_METADATA = _object(name=TEXT, datatype=TEXT, shape=_list({"type": "integer"}))
MODEL = _object(
    name=TEXT, versions=_list(TEXT), platform=TEXT, inputs=_list(TENSOR_METADATA), outputs=_list(TENSOR_METADATA)
)
INDEX_ENTRY = _object(name=TEXT, version=TEXT, state=TEXT)
REFUSED = _list(_object(version=COUNT, reasons=_list(TEXT)))
READY = _object(ready={"type": "boolean"}, refused=REFUSED)
ABOUT = _object(name=TEXT, version=COUNT, labels=_list(TEXT), max_body_bytes=COUNT, refused=REFUSED)
CLASS = _object(label=TEXT, probability=SHARE)
CLASSES = _object(
    model=TEXT,
    version=COUNT,
    label=TEXT,
    probability=SHARE,
    classes=_list(CLASS),
    image=_object(width_px=COUNT, height_px=COUNT),
)
# Number, height, width and channels; behind it as many values, or `binary_data_size` and the bytes behind the JSON.
SHAPE = {**_list({}, minItems=4, maxItems=4), "items": False, "prefixItems": [COUNT, COUNT, COUNT, {"const": 3}]}
INPUT_TENSOR = _with_optional(
    _object(name={"const": INPUT}, datatype={"const": "UINT8"}, shape=SHAPE),
    data={"type": "array"},  # of whole numbers 0..255, flat or nested
    parameters={"type": "object", "properties": {"binary_data_size": COUNT}},
)
WANTED_OUTPUT = _with_optional(
    _object(name={"enum": list(OUTPUTS)}),
    parameters={
        "type": "object",
        "properties": {"binary_data": {"type": "boolean"}, "classification": {"type": "integer", "minimum": 0}},
    },
)
INFER_REQUEST = _with_optional(
    _object(inputs=_list(INPUT_TENSOR, minItems=1, maxItems=1)),
    id={"type": ["string", "null"]},
    parameters={"type": "object", "properties": {"binary_data_output": {"type": "boolean"}}},
    outputs={**_list(WANTED_OUTPUT, minItems=1, maxItems=len(OUTPUTS)), "type": ["array", "null"]},
)
OUTPUT_TENSOR = _with_optional(
    _object(name={"enum": list(OUTPUTS)}, datatype={"enum": ["FP32", "BYTES"]}, shape=_list(COUNT)),
    data=_list({"type": ["number", "string"]}),
    parameters=_object(binary_data_size=COUNT),
)
INFER_RESPONSE = _with_optional(_object(model_name=TEXT, model_version=TEXT, outputs=_list(OUTPUT_TENSOR)), id=TEXT)
