"""FILE.toml: what stands beside a network that is given as FILE.onnx."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from tasks.config import Section
from tasks.errors import ConfigError
from tasks.networks.normalisation import Normalisation

Channels = tuple[float, float, float]
AnyDescription = TypeVar("AnyDescription", bound=Section)


class Description(Section):
    """FILE.toml: what the authors of a network did with a photograph, and what the network gives."""

    image_size_px: int = Field(ge=16, le=1024)
    """Side of the square that the network takes."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    """The order of the input's dimensions."""
    channels: Literal["RGB", "BGR"] = "RGB"
    """The order of its channels, in which `mean` and `std` are given."""
    mean: Channels
    """Subtracted from pixels of 0..255."""
    std: Channels
    """What they are then divided by."""
    resize: Literal["bilinear", "bicubic"] = "bicubic"
    """The filter."""
    crop: float = Field(default=1.0, gt=0, le=1)
    """Share of each side that is left of the resized image, in the middle: 0.875 where 224 pixels are cut from 256."""
    output: str = ""
    """The output that is pooled; empty takes the first."""
    output_layout: Literal["", "NCHW", "NHWC"] = ""
    """The order of its dimensions where it is a map; empty takes what the operators around it say."""
    tokens: Literal["class", "mean", "both"] = "both"
    """Of outputs [N, T, D]: the first token, the mean of all, or both side by side."""
    licence: str = ""
    """Of the weights."""
    source: str = ""
    """Where they are from."""

    @property
    def normalisation(self) -> Normalisation:
        scale = tuple(1 / std for std in self.std)
        bias = tuple(-mean / std for mean, std in zip(self.mean, self.std, strict=True))
        return Normalisation(scale=scale, bias=bias, reverse_channels=self.channels == "BGR")  # type: ignore[arg-type]


class TextDescription(Section):
    """FILE.toml of an encoder of texts; without one, these defaults are taken."""

    max_tokens: int = Field(default=128, ge=8, le=8192)
    """Longer texts are cut off behind so many tokens."""
    pooling: Literal["mean", "class", "both"] = "mean"
    """How tokens [N, T, D] become one row: their mean, the first one, or both side by side."""
    tokenizer: str = Field(default="tokenizer.json", pattern=r"^[^/\\]+$")
    """The file of its tokenizer, in the same folder."""
    output: str = ""
    """The output that is pooled; empty takes the first."""
    licence: str = ""
    """Of the weights."""
    source: str = ""
    """Where they are from."""


def description_path(file: Path) -> Path:
    return file.with_suffix(".toml")


def read_description(file: Path) -> Description:
    """The description beside a network. Raises ConfigError where there is none, or a key is wrong."""
    path = description_path(file)
    if not path.is_file():
        raise ConfigError(
            f"{file} needs a description beside it, {path.name}: `headstart backbone inspect {file}` proposes one"
        )
    return _read(path, Description)


def read_text_description(file: Path) -> TextDescription:
    """The description of an encoder of texts. Raises ConfigError where a key is wrong."""
    path = description_path(file)
    return _read(path, TextDescription) if path.is_file() else TextDescription()


def _read(path: Path, kind: type[AnyDescription]) -> AnyDescription:
    try:
        return kind.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not valid TOML: {exc}") from exc
    except ValidationError as exc:
        error = exc.errors()[0]
        known = ", ".join(kind.model_fields)
        raise ConfigError(f"{path}: {'.'.join(map(str, error['loc']))}: {error['msg']}; its keys are {known}") from None
