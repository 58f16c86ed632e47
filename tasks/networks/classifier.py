"""model.onnx as its users run it: decoded photographs in, class and probabilities out. Needs no TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tasks.errors import HeadstartError
from tasks.modality.images import DEFAULT_MAX_PIXELS, decode
from tasks.networks.onnx_session import available_cores, open_session


class Classifier:
    """A loaded model.onnx; safe to call from any number of threads.

    Raises:
        HeadstartError: the file can't be loaded, or is not a model of headstart.
    """

    def __init__(self, onnx_file: str | Path | bytes) -> None:
        where = "the given bytes" if isinstance(onnx_file, bytes) else str(onnx_file)
        try:
            self._session = open_session(onnx_file if isinstance(onnx_file, bytes) else str(onnx_file))
        except Exception as exc:  # ONNX Runtime's exceptions share no public base
            raise HeadstartError(f"{where} can't be loaded by ONNX Runtime: {str(exc).splitlines()[0]}") from exc
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        if "labels" not in self.metadata:
            raise HeadstartError(f"{where} is not a model of headstart: its metadata has no 'labels'")
        self.labels: list[str] = json.loads(self.metadata["labels"])

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] RGB to float32 [C]."""
        [probabilities] = self._session.run(["probabilities"], {"image": pixels[None]})
        return probabilities[0]  # type: ignore[index]

    def classify_all(
        self,
        images: Iterable[Callable[[], bytes]],
        *,
        workers: int = 0,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> Iterator[np.ndarray]:
        """Float32 [C] for each image, in order; decoding and inference run on `workers` threads (0: one a core).

        Args:
            images: functions that return an image's encoded bytes; each is called on a worker thread.
        """
        with ThreadPoolExecutor(workers or available_cores(), thread_name_prefix="classify") as pool:
            yield from pool.map(lambda read: self.probabilities(decode(read(), max_pixels)), images)
