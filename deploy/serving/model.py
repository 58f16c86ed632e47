"""One loaded version of a model: ONNX Runtime, its labels, and how to ask it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnxruntime as ort

from tasks.errors import DamagedFileError
from tasks.modality.feeds import INPUTS
from tasks.networks.classifier import tokens_of
from tasks.networks.onnx_session import open_model, options_for
from tasks.networks.outputs import LABEL, OUTPUTS, PROBABILITIES, THRESHOLD
from tasks.networks.text_batches import run_texts

BATCHES = (2, 4, 8, 16)
WORTH_BATCHING = 0.97  # a batch waits for its last image, so it has to be cheaper by more than noise
TRIAL_SIDE_PX = 256


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The prediction for one image: `probabilities` float32 [C] in the order of `model.labels`.

    `familiarity`, in 0..1, is None where the model has no such output.
    """

    model: ServedModel
    probabilities: np.ndarray
    label: str
    familiarity: float | None = None

    @property
    def familiar(self) -> bool | None:
        """Whether the image resembles what the model was trained on."""
        return None if self.familiarity is None else self.familiarity >= THRESHOLD


class ServedModel:
    """A model.onnx of the contract: `image` uint8 [N, H, W, 3] or the tokens of texts in; `probabilities` [N, C],
    `label` [N] out and, of a model that has it, `familiarity` [N].

    Sessions of ONNX Runtime may be run by several threads at once.
    """

    def __init__(
        self,
        content: bytes,
        tokenizer: bytes | None = None,
        *,
        name: str,
        version: int,
        manifest: Mapping[str, Any] | None = None,
    ) -> None:
        """Loads the graph and tries it, so that the first request finds it warm.

        Args:
            content: the bytes of model.onnx.
            tokenizer: those of tokenizer.json, of a model for texts.
            manifest: that of the version, verified.

        Raises:
            DamagedFileError: not a graph that ONNX Runtime loads and runs, or not one of the contract.
        """
        self.name = name
        self.version = version
        self.manifest = manifest or {}
        self._session = _session(content)
        self.labels = _labels(self._session)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.task: Literal["image", "text"] = "text" if metadata.get("task") == "text" else "image"
        given = {node.name for node in self._session.get_outputs()}
        self.outputs = tuple(name for name in OUTPUTS if name in given)
        try:
            self._tokens = tokens_of(metadata, tokenizer, "model.onnx") if self.task == "text" else None
            self.batch = 1 if self._tokens else self._best_batch()
            if self._tokens:
                self.infer_texts(["a text"])
        except Exception as exc:  # ONNX Runtime's exceptions share no public base
            raise DamagedFileError(f"model.onnx can't predict: {str(exc).splitlines()[0]}") from exc

    def _best_batch(self) -> int:
        """How many images to predict in one batch: as many as make one image cheaper.

        A batch spares a small network its overhead, and costs a larger one its cache: MobileNetV2 at 224 px took
        7.0 ms an image alone and 8.3 ms in a batch of 8 on one core.
        """
        best, cheapest_s = 1, self._seconds_an_image(1)
        for batch in BATCHES:
            cost_s = self._seconds_an_image(batch)
            if cost_s > WORTH_BATCHING * cheapest_s:
                break
            best, cheapest_s = batch, cost_s
        return best

    def _seconds_an_image(self, batch: int) -> float:
        """Processor time, which other work on the machine does not disturb; a session computes on its caller."""
        images = np.zeros((batch, TRIAL_SIDE_PX, TRIAL_SIDE_PX, 3), np.uint8)
        took_s = []
        for _ in range(3):
            started = time.thread_time()
            self._infer_together(images)
            took_s.append((time.thread_time() - started) / batch)
        return min(took_s)

    def infer(self, images: np.ndarray) -> list[Answer]:
        """Answers images uint8 [N, H, W, 3], RGB, no more at a time than is quickest: memory is that of one batch."""
        parts = (images[start : start + self.batch] for start in range(0, len(images), self.batch))
        return [answer for part in parts for answer in self._infer_together(part)]

    def infer_texts(self, texts: Sequence[str]) -> list[Answer]:
        """Answers texts, each as it would be alone. Raises DecodeError for one that is empty or too long."""
        assert self._tokens
        tokens = [self._tokens.read(text.encode()) for text in texts]
        # On one thread: requests have the others.
        return self._answers(list(zip(*run_texts(self._session, self.outputs, tokens, workers=1), strict=True)))

    def _infer_together(self, images: np.ndarray) -> list[Answer]:
        options = options_for(images.size // 3)
        return self._answers(self._session.run(list(self.outputs), {"image": images}, options))

    def _answers(self, found: Sequence[Any]) -> list[Answer]:
        """The outputs of one batch as answers."""
        probabilities, labels, familiarity = [*found, [None] * len(found[0])][:3]
        return [
            Answer(model=self, probabilities=row, label=str(label), familiarity=None if share is None else float(share))
            for row, label, share in zip(probabilities, labels, familiarity, strict=True)
        ]


def _session(content: bytes) -> ort.InferenceSession:
    try:
        session = open_model(content)
    except Exception as exc:  # ONNX Runtime's exceptions share no public base
        raise DamagedFileError(f"model.onnx can't be loaded by ONNX Runtime {ort.__version__}: {exc}") from exc
    inputs = {node.name for node in session.get_inputs()}
    outputs = {node.name for node in session.get_outputs()}
    if inputs not in [set(names) for names in INPUTS.values()] or not {PROBABILITIES, LABEL} <= outputs:
        raise DamagedFileError(
            "model.onnx is not a headstart classifier: it should take 'image', or 'input_ids' and 'attention_mask', "
            f"and give 'probabilities' and 'label'; it takes {sorted(inputs)} and gives {sorted(outputs)}"
        )
    return session


def _labels(session: ort.InferenceSession) -> tuple[str, ...]:
    metadata = session.get_modelmeta().custom_metadata_map
    try:
        return tuple(json.loads(metadata["labels"]))
    except (KeyError, ValueError, TypeError) as exc:
        raise DamagedFileError("model.onnx has no JSON list of class names in its metadata 'labels'") from exc
