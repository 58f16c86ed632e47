"""model.onnx as its users run it: decoded photographs in, class and probabilities out. Needs no TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks.errors import DamagedFileError, HeadstartError, UsageError
from tasks.modality.images import DEFAULT_MAX_PIXELS, decode
from tasks.networks.onnx_session import available_cores, open_model
from tasks.networks.outputs import FAMILIARITY, PROBABILITIES, THRESHOLD


class Prediction(NamedTuple):
    """`probabilities` float32 [C] of one image, or [N, C] of a batch; `familiarity` float32 [] or [N], in 0..1, None
    where the model has no such output."""

    probabilities: np.ndarray
    familiarity: np.ndarray | None

    @property
    def familiar(self) -> np.ndarray | None:
        """Whether images resemble what the model was trained on: bool [] or [N]."""
        return None if self.familiarity is None else self.familiarity >= THRESHOLD


class Classifier:
    """A loaded model.onnx; safe to call from any number of threads.

    Raises:
        HeadstartError: the file can't be read or loaded, refers to other files, or is not a model of headstart.
    """

    def __init__(self, onnx_file: str | Path | bytes) -> None:
        where = "the given bytes" if isinstance(onnx_file, bytes) else str(onnx_file)
        try:
            # Read here: ONNX Runtime would also read what lies beside a path.
            self._session = open_model(onnx_file if isinstance(onnx_file, bytes) else Path(onnx_file).read_bytes())
        except OSError as exc:
            raise UsageError(f"can't read {where}: {exc.strerror or exc}") from exc
        except DamagedFileError as exc:
            raise HeadstartError(f"{where} can't be used: {exc}") from None
        except Exception as exc:  # ONNX Runtime's exceptions share no public base
            raise HeadstartError(f"{where} can't be loaded by ONNX Runtime: {str(exc).splitlines()[0]}") from exc
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        if "labels" not in self.metadata:
            raise HeadstartError(f"{where} is not a model of headstart: its metadata has no 'labels'")
        self.labels: list[str] = json.loads(self.metadata["labels"])
        given = {node.name for node in self._session.get_outputs()}
        self._outputs = [name for name in (PROBABILITIES, FAMILIARITY) if name in given]
        self.has_familiarity = FAMILIARITY in given

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """The probability of each class, float32, in the order of `labels`; see `predict`."""
        return self.predict(pixels).probabilities

    def predict(self, pixels: np.ndarray) -> Prediction:
        """The probability of each class, in the order of `labels`, and the familiarity.

        Args:
            pixels: one image, uint8 [H, W, 3] RGB; or a batch, uint8 [N, H, W, 3].

        Raises:
            UsageError: pixels of another type or shape.
        """
        if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[-1] != 3 or 0 in pixels.shape:
            raise UsageError(
                "pixels have to be uint8 [height, width, 3] in RGB, or [images, height, width, 3]; found "
                f"{pixels.dtype} {list(pixels.shape)}"
            )
        batch = pixels if pixels.ndim == 4 else pixels[None]
        found = [np.asarray(each) for each in self._session.run(self._outputs, {"image": batch})]
        each = found if pixels.ndim == 4 else [values[0] for values in found]
        return Prediction(each[0], each[1] if len(each) > 1 else None)

    def classify_all(
        self,
        images: Iterable[Callable[[], bytes]],
        *,
        workers: int = 0,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> Iterator[Prediction]:
        """The prediction for each image, in order; decoding and inference run on `workers` threads (0: one a core).

        Args:
            images: functions that return an image's encoded bytes; each is called on a worker thread.
        """
        with ThreadPoolExecutor(workers or available_cores(), thread_name_prefix="classify") as pool:
            yield from pool.map(lambda read: self.predict(decode(read(), max_pixels)), images)
