"""Requests and answers as pydantic models: they validate, serialise, and become the OpenAPI document.

The Open Inference Protocol has far more than a server of one model needs; what is here is what this server reads and
writes.
"""

from __future__ import annotations

import re
import reprlib
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    Strict,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tasks.errors import RequestError
from tasks.networks.outputs import OUTPUTS

INPUT = "image"
TEXT_INPUT = "text"

OutputName = Literal["probabilities", "label", "familiarity"]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


def digits(of: str, *, at_least: int) -> BeforeValidator:
    """Reads a number from a header or a query: digits alone, and few.

    int() would also read '1_000' and '+1', and refuse thousands of digits with an error of its own.
    """

    def read(text: str) -> int:
        if not re.fullmatch("[0-9]{1,18}", text) or int(text) < at_least:
            allowed = {"of": of, "at_least": at_least}
            raise PydanticCustomError("digits", "has to be a number of {of}, {at_least} or more", allowed)
        return int(text)

    return BeforeValidator(read)


class RequestPart(BaseModel):
    """An object in a request's JSON. It may hold more than is read here, as other servers' extensions do."""

    model_config = ConfigDict(strict=True, frozen=True, use_attribute_docstrings=True)

    @classmethod
    def read(cls, content: bytes) -> Self:
        """What a request's JSON says. Raises RequestError (400) where it is no object, or has a wrong field."""
        try:
            return cls.model_validate(orjson.loads(content))  # unlike pydantic's parser, it refuses NaN
        except orjson.JSONDecodeError as exc:
            raise RequestError(400, f"the request's JSON can't be read: {exc}") from None
        except ValidationError:
            found = reprlib.repr(content.decode())
            raise RequestError(400, f"the request has to be a JSON object; found {found}") from None

    @model_validator(mode="wrap")
    @classmethod
    def _refuse(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Raises RequestError (400) for the first wrong field: what it has to be, and what was found."""
        try:
            return handler(value)
        except ValidationError as exc:
            path = exc.errors(include_url=False, include_context=False, include_input=False)[0]["loc"]
            if not path:  # not an object: reported by the field that holds it
                raise
        allowed = (cls.model_fields[str(path[0])].description or "").rstrip(".")
        allowed = allowed[:1].lower() + allowed[1:]
        found = reprlib.repr(value[path[0]]) if path[0] in value else "nothing"  # a line, however deep or long it is
        raise RequestError(400, f"{path[0]!r}: {allowed}; found {found}")


class TensorParameters(RequestPart):
    binary_data_size: Positive | None = None
    """A number of bytes: so many of those behind the JSON are this tensor."""


class InputTensor(RequestPart):
    name: Literal["image"]
    """The input is named 'image'."""
    datatype: Literal["UINT8"]
    """'image' has datatype UINT8, decoded RGB in 0..255."""
    shape: Annotated[tuple[Positive, Positive, Positive, Literal[3]], Strict(False)]  # JSON has no tuples
    """[N, height, width, 3], four whole numbers, none below 1."""
    data: list[Any] | None = None  # NumPy checks the numbers, which pydantic would do one by one
    """As many whole numbers in 0..255 as the shape holds, flat or nested."""
    parameters: TensorParameters = TensorParameters()
    """An object; it holds 'binary_data_size' where the tensor is bytes behind the JSON."""


class TextTensor(RequestPart):
    name: Literal["text"]
    """The input is named 'text'."""
    datatype: Literal["BYTES"]
    """'text' has datatype BYTES, texts in UTF-8."""
    shape: Annotated[tuple[Positive], Strict(False)] | Annotated[tuple[Positive, Literal[1]], Strict(False)]
    """[N] or [N, 1], N whole and not below 1."""
    data: list[str] | None = None
    """As many strings as the shape holds."""
    parameters: TensorParameters = TensorParameters()
    """An object; it holds 'binary_data_size' where the tensor is bytes behind the JSON."""


class OutputParameters(RequestPart):
    binary_data: bool | None = None
    """True or false: as bytes behind the JSON, or in it."""
    classification: int = Field(default=0, ge=0)
    """A number of classes: so many of the most probable as text, in place of the tensor; 0 for the tensor."""


class RequestedOutput(RequestPart):
    name: OutputName
    """'probabilities', 'label' or 'familiarity'."""
    parameters: OutputParameters = OutputParameters()
    """An object."""


class RequestParameters(RequestPart):
    binary_data_output: bool = False
    """True or false: all outputs as bytes behind the JSON, where they don't say otherwise."""


class InferenceRequest(RequestPart):
    """The JSON of `POST …/infer`."""

    id: str | None = None
    """A string; the answer has it too."""
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    """A list of one tensor, named 'image'."""
    outputs: Annotated[list[RequestedOutput], Field(min_length=1, max_length=len(OUTPUTS))] | None = None
    """A list of 'probabilities', 'label' and 'familiarity', or some of them; all that the model has by default."""
    parameters: RequestParameters = RequestParameters()
    """An object."""


class TextInferenceRequest(InferenceRequest):
    """The JSON of `POST …/infer` of a model for texts."""

    inputs: Annotated[list[TextTensor], Field(min_length=1, max_length=1)]  # type: ignore[assignment]
    """A list of one tensor, named 'text'."""


class TextBody(RequestPart):
    """The JSON of `POST /classify` of a model for texts."""

    text: Annotated[str, Field(min_length=1)]
    """A string, the text."""


class OutputTensor(BaseModel):
    name: OutputName
    datatype: Literal["FP32", "BYTES"]
    shape: list[int]
    data: list[float] | list[str] | None = None
    parameters: TensorParameters | None = None


class InferenceResponse(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class Problem(BaseModel):
    error: str


class Liveness(BaseModel):
    live: bool


class RefusedVersion(BaseModel):
    version: Positive
    reasons: tuple[str, ...]


class Readiness(BaseModel):
    ready: bool
    refused: list[RefusedVersion]


class About(BaseModel):
    name: str
    version: Positive
    labels: tuple[str, ...]
    task: Literal["image", "text"]
    max_body_bytes: Positive
    collected_share: Share
    refused: list[RefusedVersion]


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReadiness(BaseModel):
    name: str
    ready: bool


class IndexEntry(BaseModel):
    name: str
    version: str
    state: str


class ClassProbability(BaseModel):
    label: str
    probability: Share


class ImageSize(BaseModel):
    width_px: Positive
    height_px: Positive


class Classification(BaseModel):
    """The answer of `POST /classify`: the best class, and the most probable ones."""

    model: str
    version: Positive
    label: str
    probability: Share
    classes: list[ClassProbability]
    image: ImageSize | None = None
    """Null of a text."""
    familiarity: Share | None = None
    """How much the image resembles what the model was trained on; null where the model does not say it."""
    familiar: bool | None = None
    """Whether it is familiar: 0.5 or more."""


class WordWeight(BaseModel):
    word: str
    weight: float
    """How far the log-odds of the class fall without it."""


class SimilarItem(BaseModel):
    """A training item, with the label that it was given."""

    label: str
    picture: str | None = None
    """A small JPEG as a `data:` URL; null of a text, and where it can't be read any more."""
    text: str | None = None
    """The beginning of a text."""


class Explanation(BaseModel):
    """The answer of `POST /explain`: what speaks for the best class, and what the model was trained on that is most
    like it."""

    model: str
    version: Positive
    label: str
    probability: Share
    image: ImageSize | None = None
    """Null of a text."""
    heat: list[list[float]] | None = None
    """How far the log-odds of the class fall without each spot of the image, row by row; null of a text, and where the
    model has no feature maps that its classes follow from."""
    heat_map: str | None = None
    """The same as a PNG that is laid over the image, as a `data:` URL."""
    words: list[WordWeight] = []
    """Of a text."""
    nearest: list[SimilarItem] = []
    """The most similar first."""
    nearest_missing: str | None = None
    """Why there are none."""
