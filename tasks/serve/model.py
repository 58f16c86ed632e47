"""One loaded version of a model: ONNX Runtime, its labels, and how to ask it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from tasks.errors import DamagedFileError
from tasks.onnx_session import open_session

# Above this an inference's memory is given back at once; below, ONNX Runtime's arena is worth keeping.
LARGE_BATCH_PIXELS = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model says of one image: `probabilities` float32 [C] in the order of `model.labels`."""

    model: ServedModel
    probabilities: np.ndarray
    label: str


class ServedModel:
    """A model.onnx of the contract: `image` uint8 [N, H, W, 3] in, `probabilities` [N, C], `label` [N] out.

    Sessions of ONNX Runtime may be run by several threads at once.
    """

    def __init__(self, content: bytes, *, name: str, version: int) -> None:
        """Loads the graph and answers one small image, so that the first request finds it warm.

        Args:
            content: the bytes of model.onnx.

        Raises:
            DamagedFileError: not a graph that ONNX Runtime loads, or not one of the contract.
        """
        self.name = name
        self.version = version
        self._session = _session(content)
        self.labels = _labels(self._session)
        self.infer(np.zeros((1, 32, 32, 3), np.uint8))

    def infer(self, images: np.ndarray) -> list[Answer]:
        """Answers images uint8 [N, H, W, 3], RGB."""
        options = ort.RunOptions()
        if images.size // 3 > LARGE_BATCH_PIXELS:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        outputs: Sequence[Any] = self._session.run(["probabilities", "label"], {"image": images}, options)
        return [Answer(model=self, probabilities=row, label=str(label)) for row, label in zip(*outputs, strict=True)]


def _session(content: bytes) -> ort.InferenceSession:
    try:
        session = open_session(content)
    except Exception as exc:  # ONNX Runtime's exceptions share no public base
        raise DamagedFileError(f"model.onnx can't be loaded by ONNX Runtime {ort.__version__}: {exc}") from exc
    inputs = {node.name for node in session.get_inputs()}
    outputs = {node.name for node in session.get_outputs()}
    if inputs != {"image"} or not {"probabilities", "label"} <= outputs:
        raise DamagedFileError(
            "model.onnx is not a headstart classifier: it should take 'image' and give 'probabilities' and "
            f"'label'; it takes {sorted(inputs)} and gives {sorted(outputs)}"
        )
    return session


def _labels(session: ort.InferenceSession) -> tuple[str, ...]:
    metadata = session.get_modelmeta().custom_metadata_map
    try:
        return tuple(json.loads(metadata["labels"]))
    except (KeyError, ValueError, TypeError) as exc:
        raise DamagedFileError("model.onnx has no JSON list of class names in its metadata 'labels'") from exc
