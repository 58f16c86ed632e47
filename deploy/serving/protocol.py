"""The Open Inference Protocol v2 over HTTP, as values: no sockets, no model.

https://github.com/kserve/open-inference-protocol and Triton's extensions to it for binary tensor data,
classification and model configuration, which `tritonclient` uses.
"""

from __future__ import annotations

import math
import reprlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from deploy.serving.limits import Limits
from deploy.serving.model import Answer, ServedModel
from tasks.errors import RequestError
from tasks.modality.images import MAX_SIDE_PX

INPUT = "image"
OUTPUTS = ("probabilities", "label")
EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository"]
HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, kw_only=True)
class WantedOutput:
    """An output that the client asks for; with `classes` the top ones as text, in place of the tensor."""

    name: str
    binary: bool = False
    classes: int = 0


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """`images` uint8 [N, H, W, 3], and what to answer."""

    id: str | None
    images: np.ndarray
    outputs: tuple[WantedOutput, ...]


def bad(reason: str) -> RequestError:
    return RequestError(400, reason)


def parse_infer_request(body: bytes, header_length: str | None, limits: Limits) -> InferRequest:
    """Reads the body of `POST …/infer`.

    Args:
        body: JSON, and behind it the binary tensors where `header_length` is given.
        header_length: the value of the header Inference-Header-Content-Length.

    Raises:
        RequestError: 400 with what is wrong, or 413 where a limit is passed.
    """
    header, binary = _split(body, header_length)
    request = _object(header)
    parameters = _parameters(request, "the request")
    images = _images(_only_input(request), binary, limits)
    request_id = request.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise bad(f"'id' has to be a string; found {_kind(request_id)}")
    binary_default = _flag(parameters, "binary_data_output", default=False)
    return InferRequest(id=request_id, images=images, outputs=_wanted(request, binary_default))


def infer_response(request: InferRequest, answers: Sequence[Answer]) -> tuple[bytes, int | None]:
    """The body of the answer, and the length of its JSON part where binary tensors follow."""
    model = answers[0].model
    outputs, chunks = [], []
    for wanted in request.outputs:
        datatype, array = _output(wanted, answers)
        entry: dict[str, Any] = {"name": wanted.name, "datatype": datatype, "shape": list(array.shape)}
        if wanted.binary:
            chunk = _pack_bytes(array) if datatype == "BYTES" else array.astype("<f4").tobytes()
            entry["parameters"] = {"binary_data_size": len(chunk)}
            chunks.append(chunk)
        else:
            entry["data"] = array.ravel().tolist()
        outputs.append(entry)
    header: dict[str, Any] = {
        "model_name": model.name,
        "model_version": str(model.version),
        "outputs": outputs,
    }
    if request.id is not None:
        header["id"] = request.id
    encoded = orjson.dumps(header)
    return b"".join([encoded, *chunks]), len(encoded) if chunks else None


def server_metadata(version: str) -> dict[str, Any]:
    return {"name": "headstart", "version": version, "extensions": EXTENSIONS}


def model_metadata(model: ServedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "versions": [str(model.version)],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(model.labels)]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
    }


def model_config(model: ServedModel) -> dict[str, Any]:
    """The model configuration extension: what Triton would say of the same folder."""
    return {
        "name": model.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": [{"name": INPUT, "data_type": "TYPE_UINT8", "dims": [-1, -1, -1, 3]}],
        "output": [
            {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [-1, len(model.labels)]},
            {"name": "label", "data_type": "TYPE_STRING", "dims": [-1]},
        ],
    }


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    if not header_length.isascii() or not header_length.isdigit():
        raise bad(f"{HEADER_LENGTH} has to be a number of bytes; found {header_length!r}")
    length = int(header_length)
    if length > len(body):
        raise bad(f"{HEADER_LENGTH} is {length}, and the body has {len(body)} bytes: was it cut off?")
    return body[:length], body[length:]


def _object(header: bytes) -> dict[str, Any]:
    try:
        request = orjson.loads(header)
    except orjson.JSONDecodeError as exc:
        raise bad(f"the request's JSON can't be read: {exc}") from None
    if not isinstance(request, dict):
        raise bad(f"the request has to be a JSON object; found {_kind(request)}")
    return request


def _only_input(request: dict[str, Any]) -> dict[str, Any]:
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise bad(f"'inputs' has to be a list of one tensor, named {INPUT!r}")
    tensor = inputs[0]
    if tensor.get("name") != INPUT:
        raise bad(f"the input is named {INPUT!r}; found {tensor.get('name')!r}")
    if tensor.get("datatype") != "UINT8":
        raise bad(f"{INPUT!r} has datatype UINT8, decoded RGB in 0..255; found {tensor.get('datatype')!r}")
    return tensor


def _images(tensor: dict[str, Any], binary: bytes, limits: Limits) -> np.ndarray:
    shape = _shape(tensor, limits)
    parameters = _parameters(tensor, INPUT)
    if "binary_data_size" in parameters:
        return _binary_images(shape, parameters["binary_data_size"], binary, "data" in tensor)
    if binary:
        raise bad(f"{len(binary)} bytes follow the JSON, and no input has a 'binary_data_size' that claims them")
    return _json_images(shape, tensor)


def _shape(tensor: dict[str, Any], limits: Limits) -> tuple[int, ...]:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or len(shape) != 4 or not all(type(size) is int for size in shape):
        raise bad(f"{INPUT!r} has shape [N, height, width, 3], four whole numbers; found {_brief(shape)}")
    if min(shape) < 1 or shape[3] != 3:
        raise bad(f"{INPUT!r} has shape [N, height, width, 3], none below 1; found {_brief(shape)}")
    count, height, width, _ = shape
    if height * width > limits.max_pixels:
        raise RequestError(413, f"{width}x{height} pixels are more than the {limits.max_pixels} allowed here")
    if max(height, width) > MAX_SIDE_PX:
        raise RequestError(413, f"{width}x{height} pixels: a side is longer than the {MAX_SIDE_PX} allowed here")
    if count > limits.max_waiting:
        raise RequestError(413, f"{count} images are more than the {limits.max_waiting} that a request may hold")
    if math.prod(shape) > limits.max_body_bytes:
        raise RequestError(413, f"{math.prod(shape)} values are more than the {limits.max_body_bytes} allowed here")
    return tuple(shape)


def _binary_images(shape: tuple[int, ...], size: Any, binary: bytes, has_data: bool) -> np.ndarray:
    if has_data:
        raise bad(f"{INPUT!r} has both 'data' and a 'binary_data_size': give one")
    if type(size) is not int or size != math.prod(shape):
        raise bad(f"shape {list(shape)} of UINT8 is {math.prod(shape)} bytes; 'binary_data_size' is {_brief(size)}")
    if len(binary) != size:
        raise bad(f"'binary_data_size' is {size}, and {len(binary)} bytes follow the JSON")
    return np.frombuffer(binary, np.uint8).reshape(shape)


def _json_images(shape: tuple[int, ...], tensor: dict[str, Any]) -> np.ndarray:
    if not isinstance(tensor.get("data"), list):
        raise bad(f"{INPUT!r} has neither 'data', a list of numbers, nor a 'binary_data_size'")
    try:
        values = np.asarray(tensor["data"])
    except (ValueError, OverflowError) as exc:
        raise bad(f"'data' of {INPUT!r} is not an array of whole numbers: {exc}") from None
    if values.dtype.kind not in "iu":
        raise bad(f"'data' of {INPUT!r} has to hold whole numbers in 0..255 and nothing else")
    if values.size != math.prod(shape):
        raise bad(f"shape {list(shape)} is {math.prod(shape)} values; 'data' holds {values.size}")
    if values.min() < 0 or values.max() > 255:
        raise bad(f"'data' of {INPUT!r} holds values from {values.min()} to {values.max()}; UINT8 is 0..255")
    return values.astype(np.uint8).reshape(shape)


def _wanted(request: dict[str, Any], binary_default: bool) -> tuple[WantedOutput, ...]:
    outputs = request.get("outputs")
    if outputs is None:
        return tuple(WantedOutput(name=name, binary=binary_default) for name in OUTPUTS)
    if not isinstance(outputs, list) or not outputs or len(outputs) > len(OUTPUTS):
        raise bad(f"'outputs' has to be a list of one or two of {list(OUTPUTS)}")
    return tuple(_wanted_output(output, binary_default) for output in outputs)


def _wanted_output(output: Any, binary_default: bool) -> WantedOutput:
    if not isinstance(output, dict) or output.get("name") not in OUTPUTS:
        name = output.get("name") if isinstance(output, dict) else output
        raise bad(f"there is no output {_brief(name)}; there are {list(OUTPUTS)}")
    parameters = _parameters(output, output["name"])
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise bad(f"'classification' has to be a number of classes; found {_brief(classes)}")
    if classes and output["name"] != "probabilities":
        raise bad("'classification' goes with the output 'probabilities'")
    binary = _flag(parameters, "binary_data", default=binary_default)
    return WantedOutput(name=output["name"], binary=binary, classes=classes)


def _output(wanted: WantedOutput, answers: Sequence[Answer]) -> tuple[str, np.ndarray]:
    if wanted.name == "label":
        return "BYTES", np.array([answer.label for answer in answers], object)
    if wanted.classes:
        return "BYTES", np.array([_top_classes(answer, wanted.classes) for answer in answers], object)
    return "FP32", np.stack([answer.probabilities for answer in answers])


def _top_classes(answer: Answer, classes: int) -> list[str]:
    """'probability:index:label', the most probable first, as the classification extension writes them."""
    order = np.argsort(-answer.probabilities, kind="stable")[:classes]
    return [f"{answer.probabilities[i]:f}:{i}:{answer.model.labels[i]}" for i in order]


def _pack_bytes(array: np.ndarray) -> bytes:
    """BYTES elements as the binary extension lays them out: each behind its length, 4 bytes little-endian."""
    encoded = [text.encode() for text in array.ravel()]
    return b"".join(struct.pack("<I", len(text)) + text for text in encoded)


def _parameters(holder: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = holder.get("parameters", {})
    if not isinstance(parameters, dict):
        raise bad(f"'parameters' of {where} has to be an object; found {_kind(parameters)}")
    return parameters


def _flag(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise bad(f"{name!r} has to be true or false; found {_brief(value)}")
    return value


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _brief(value: Any) -> str:
    """At most a line of what was found, however deep or long."""
    return reprlib.repr(value)
