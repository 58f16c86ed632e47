"""The Open Inference Protocol v2 over HTTP, as values: no sockets, no model.

https://github.com/kserve/open-inference-protocol and Triton's extensions to it for binary tensor data,
classification and model configuration, which `tritonclient` uses.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from deploy.serving import schemas
from deploy.serving.limits import Limits
from deploy.serving.model import Answer, ServedModel
from deploy.serving.schemas import (
    INPUT,
    TEXT_INPUT,
    InferenceRequest,
    InputTensor,
    RequestedOutput,
    TextInferenceRequest,
    TextTensor,
)
from tasks.errors import RequestError
from tasks.modality.images.content import MAX_SIDE_PX
from tasks.networks.outputs import FAMILIARITY, LABEL, PROBABILITIES

EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository"]
TRITON_TYPES = {"FP32": "TYPE_FP32", "BYTES": "TYPE_STRING"}
HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """`images` uint8 [N, H, W, 3] or, of a model for texts, `texts`, and the requested outputs."""

    id: str | None
    images: np.ndarray
    texts: Sequence[str] = ()
    outputs: Sequence[RequestedOutput]  # none: all
    binary: bool  # for outputs that don't say

    def is_binary(self, output: RequestedOutput) -> bool:
        wanted = output.parameters.binary_data
        return self.binary if wanted is None else wanted


def bad(reason: str) -> RequestError:
    return RequestError(400, reason)


def parse_infer_request(
    body: bytes, header_length: int | None, limits: Limits, task: Literal["image", "text"] = "image"
) -> InferRequest:
    """Reads the body of `POST …/infer`.

    A 224x224 image as a JSON list takes 5 ms on one core: 1.5 ms to parse, 0.2 ms to validate, 3 ms to become an array.
    Validating each of its 150,528 numbers would add 6 ms.

    Args:
        body: JSON, and behind it the binary tensors where `header_length` is given.
        header_length: the header Inference-Header-Content-Length, the number of bytes of JSON.
        task: of the model.

    Raises:
        RequestError: 400 with what is wrong, or 413 where a limit is passed.
    """
    header, binary = _split(body, header_length)
    request = (TextInferenceRequest if task == "text" else InferenceRequest).read(header)
    tensor = request.inputs[0]
    texts = _texts(tensor, binary, limits) if isinstance(tensor, TextTensor) else []
    images = np.empty((0, 0, 0, 3), np.uint8) if isinstance(tensor, TextTensor) else _images(tensor, binary, limits)
    outputs = request.outputs or []
    for output in outputs:
        if output.parameters.classification and output.name != PROBABILITIES:
            raise bad("'classification' goes with the output 'probabilities'")
    binary_output = request.parameters.binary_data_output
    return InferRequest(id=request.id, images=images, texts=texts, outputs=outputs, binary=binary_output)


def infer_response(request: InferRequest, answers: Sequence[Answer]) -> tuple[bytes, int | None]:
    """The body of the answer, and the length of its JSON part where binary tensors follow.

    Raises:
        RequestError: 400, an output that the model does not have.
    """
    model = answers[0].model
    outputs, chunks = [], []
    for wanted in request.outputs or [RequestedOutput(name=name) for name in model.outputs]:
        if wanted.name not in model.outputs:
            raise bad(f"version {model.version} has no output {wanted.name!r}; it has {', '.join(model.outputs)}")
        datatype, array = _output(wanted, answers)
        output = schemas.OutputTensor(name=wanted.name, datatype=datatype, shape=list(array.shape))
        if request.is_binary(wanted):
            chunks.append(_pack_bytes(array) if datatype == "BYTES" else array.astype("<f4").tobytes())
            output.parameters = schemas.TensorParameters(binary_data_size=len(chunks[-1]))
        else:
            output.data = array.ravel().tolist()
        outputs.append(output)
    version = str(model.version)
    response = schemas.InferenceResponse(model_name=model.name, model_version=version, id=request.id, outputs=outputs)
    encoded = response.model_dump_json(exclude_none=True).encode()
    return b"".join([encoded, *chunks]), len(encoded) if chunks else None


def model_metadata(model: ServedModel) -> schemas.ModelMetadata:
    return schemas.ModelMetadata(
        name=model.name,
        versions=[str(model.version)],
        platform="onnxruntime_onnx",
        inputs=[
            schemas.TensorMetadata(name=TEXT_INPUT, datatype="BYTES", shape=[-1])
            if model.task == "text"
            else schemas.TensorMetadata(name=INPUT, datatype="UINT8", shape=[-1, -1, -1, 3])
        ],
        outputs=[
            schemas.TensorMetadata(name=name, datatype=datatype, shape=shape)
            for name, (datatype, shape) in _outputs(model).items()
        ],
    )


def model_config(model: ServedModel) -> dict[str, Any]:
    """The model configuration extension: what Triton would say of the same folder; of texts, what this server takes."""
    return {
        "name": model.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": [
            {"name": TEXT_INPUT, "data_type": "TYPE_STRING", "dims": [-1]}
            if model.task == "text"
            else {"name": INPUT, "data_type": "TYPE_UINT8", "dims": [-1, -1, -1, 3]}
        ],
        "output": [
            {"name": name, "data_type": TRITON_TYPES[datatype], "dims": shape}
            for name, (datatype, shape) in _outputs(model).items()
        ],
    }


def _outputs(model: ServedModel) -> dict[str, tuple[str, list[int]]]:
    """The datatype and the shape of each output of the model."""
    known = {PROBABILITIES: ("FP32", [-1, len(model.labels)]), LABEL: ("BYTES", [-1]), FAMILIARITY: ("FP32", [-1])}
    return {name: known[name] for name in model.outputs}


def _split(body: bytes, header_length: int | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    if header_length > len(body):
        raise bad(f"{HEADER_LENGTH} is {header_length}, and the body has {len(body)} bytes: was it cut off?")
    return body[:header_length], body[header_length:]


def _texts(tensor: TextTensor, binary: bytes, limits: Limits) -> list[str]:
    count = tensor.shape[0]
    if count > limits.max_waiting:
        raise RequestError(413, f"{count} texts are more than the {limits.max_waiting} that a request may hold")
    _check_given(tensor, binary, "strings")
    if tensor.parameters.binary_data_size is not None:
        if len(binary) != tensor.parameters.binary_data_size:
            raise bad(f"'binary_data_size' is {tensor.parameters.binary_data_size}, and {len(binary)} bytes follow")
        texts = _unpack_bytes(binary)
    else:
        texts = tensor.data or []
    if len(texts) != count:
        raise bad(f"shape {list(tensor.shape)} is {count} texts; found {len(texts)}")
    return texts


def _unpack_bytes(binary: bytes) -> list[str]:
    """Texts as the binary extension lays them out: see `_pack_bytes`."""
    texts, place = [], 0
    while place < len(binary):
        length = int.from_bytes(binary[place : place + 4], "little")
        content = binary[place + 4 : place + 4 + length]
        if len(content) != length or place + 4 > len(binary):
            raise bad(f"the texts behind the JSON are cut off: at byte {place}, {length} bytes are announced")
        try:
            texts.append(content.decode())
        except UnicodeDecodeError:
            raise bad(f"text {len(texts)} behind the JSON is not UTF-8") from None
        place += 4 + length
    return texts


def _images(tensor: InputTensor, binary: bytes, limits: Limits) -> np.ndarray:
    _check_size(tensor.shape, limits)
    _check_given(tensor, binary, "numbers")
    size = tensor.parameters.binary_data_size
    if size is not None:
        return _binary_images(tensor.shape, size, binary)
    return _json_images(tensor.shape, tensor.data or [])


def _check_given(tensor: InputTensor | TextTensor, binary: bytes, what: str) -> None:
    """Raises RequestError unless a tensor's values are either in the JSON or behind it."""
    if tensor.parameters.binary_data_size is not None:
        if tensor.data is not None:
            raise bad(f"{tensor.name!r} has both 'data' and a 'binary_data_size': give one")
    elif binary:
        raise bad(f"{len(binary)} bytes follow the JSON, and no input has a 'binary_data_size' that claims them")
    elif tensor.data is None:
        raise bad(f"{tensor.name!r} has neither 'data', a list of {what}, nor a 'binary_data_size'")


def _check_size(shape: tuple[int, ...], limits: Limits) -> None:
    count, height, width, _ = shape
    if height * width > limits.max_pixels:
        raise RequestError(413, f"{width}x{height} pixels are more than the {limits.max_pixels} allowed here")
    if max(height, width) > MAX_SIDE_PX:
        raise RequestError(413, f"{width}x{height} pixels: a side is longer than the {MAX_SIDE_PX} allowed here")
    if count > limits.max_waiting:
        raise RequestError(413, f"{count} images are more than the {limits.max_waiting} that a request may hold")
    if math.prod(shape) > limits.max_body_bytes:
        raise RequestError(413, f"{math.prod(shape)} values are more than the {limits.max_body_bytes} allowed here")


def _binary_images(shape: tuple[int, ...], size: int, binary: bytes) -> np.ndarray:
    if size != math.prod(shape):
        raise bad(f"shape {list(shape)} of UINT8 is {math.prod(shape)} bytes; 'binary_data_size' is {size}")
    if len(binary) != size:
        raise bad(f"'binary_data_size' is {size}, and {len(binary)} bytes follow the JSON")
    return np.frombuffer(binary, np.uint8).reshape(shape)


def _json_images(shape: tuple[int, ...], data: list[Any]) -> np.ndarray:
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError) as exc:
        raise bad(f"'data' of {INPUT!r} is not an array of whole numbers: {exc}") from None
    if values.dtype.kind not in "iu":
        raise bad(f"'data' of {INPUT!r} has to hold whole numbers in 0..255 and nothing else")
    if values.size != math.prod(shape):
        raise bad(f"shape {list(shape)} is {math.prod(shape)} values; 'data' holds {values.size}")
    if values.min() < 0 or values.max() > 255:
        raise bad(f"'data' of {INPUT!r} holds values from {values.min()} to {values.max()}; UINT8 is 0..255")
    return values.astype(np.uint8).reshape(shape)


def _output(wanted: RequestedOutput, answers: Sequence[Answer]) -> tuple[Any, np.ndarray]:
    """The datatype of an output, and its values: float32 [N, C], or texts [N] or [N, classes]."""
    if wanted.name == FAMILIARITY:
        return "FP32", np.array([answer.familiarity for answer in answers], np.float32)
    if wanted.name == LABEL:
        return "BYTES", np.array([answer.label for answer in answers], object)
    if classes := wanted.parameters.classification:
        return "BYTES", np.array([_top_classes(answer, classes) for answer in answers], object)
    return "FP32", np.stack([answer.probabilities for answer in answers])


def _top_classes(answer: Answer, classes: int) -> list[str]:
    """'probability:index:label', the most probable first, as the classification extension writes them."""
    order = np.argsort(-answer.probabilities, kind="stable")[:classes]
    return [f"{answer.probabilities[i]:f}:{i}:{answer.model.labels[i]}" for i in order]


def _pack_bytes(array: np.ndarray) -> bytes:
    """BYTES elements as the binary extension lays them out: each behind its length, 4 bytes little-endian."""
    encoded = [text.encode() for text in array.ravel()]
    return b"".join(struct.pack("<I", len(text)) + text for text in encoded)
