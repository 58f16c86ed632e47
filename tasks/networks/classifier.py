"""model.onnx as its users run it: decoded photographs or texts in, class and probabilities out. Needs no TensorFlow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks.errors import DamagedFileError, HeadstartError, UsageError
from tasks.modality.feeds import Feed, feed_of_image
from tasks.modality.images.content import DEFAULT_MAX_PIXELS, decode
from tasks.networks.onnx_session import available_cores, open_model
from tasks.networks.outputs import FAMILIARITY, PROBABILITIES, THRESHOLD
from tasks.storage.repository import MODEL, TOKENIZER


class Prediction(NamedTuple):
    """`probabilities` float32 [C] of one item, or [N, C] of a batch; `familiarity` float32 [] or [N], in 0..1, None
    where the model has no such output."""

    probabilities: np.ndarray
    familiarity: np.ndarray | None

    @property
    def familiar(self) -> np.ndarray | None:
        """Whether items resemble what the model was trained on: bool [] or [N]."""
        return None if self.familiarity is None else self.familiarity >= THRESHOLD


class Classifier:
    """A loaded model.onnx, and of one for texts its tokenizer.json; safe to call from any number of threads.

    Raises:
        HeadstartError: the file can't be read or loaded, refers to other files, or is not a model of headstart; or its
            tokenizer is missing, or another.
    """

    def __init__(self, onnx_file: str | Path | bytes, tokenizer: bytes | None = None) -> None:
        """
        Args:
            onnx_file: a path, or the file's bytes.
            tokenizer: the bytes of tokenizer.json; of a path, by default the file beside it.
        """
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
        self.task = self.metadata.get("task", "image")
        given = {node.name for node in self._session.get_outputs()}
        self._outputs = [name for name in (PROBABILITIES, FAMILIARITY) if name in given]
        self.has_familiarity = FAMILIARITY in given
        if self.task == "text":
            if tokenizer is None and not isinstance(onnx_file, bytes):
                tokenizer = _beside(Path(onnx_file))
            self._tokens = tokens_of(self.metadata, tokenizer, where)

    @classmethod
    def of_version(cls, files: Mapping[str, bytes]) -> Classifier:
        """The classifier of a published version, by the names of its files."""
        return cls(files[MODEL], files.get(TOKENIZER))

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
        if pixels.ndim == 3:
            return self.predict_one(feed_of_image(pixels))
        return self._run({"image": pixels})

    def read(self, content: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Feed:
        """An item's bytes as what the graph takes. Raises DecodeError."""
        if self.task == "image":
            return feed_of_image(decode(content, max_pixels))
        from tasks.modality.texts.tokens import feed_of

        return feed_of([self._tokens.read(content)])

    def predict_one(self, feed: Feed) -> Prediction:
        """The prediction for one item, as `read` gives it."""
        found = self._run(feed)
        return Prediction(found.probabilities[0], None if found.familiarity is None else found.familiarity[0])

    def classify_all(
        self,
        items: Iterable[Callable[[], bytes]],
        *,
        workers: int = 0,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> Iterator[Prediction]:
        """The prediction for each item, in order; decoding and inference run on `workers` threads (0: one a core).

        Args:
            items: functions that return an item's encoded bytes; each is called on a worker thread.
        """
        if self.task == "text":
            yield from self._classify_texts([read() for read in items], workers)
            return
        with ThreadPoolExecutor(workers or available_cores(), thread_name_prefix="classify") as pool:
            yield from pool.map(lambda read: self.predict_one(self.read(read(), max_pixels)), items)

    def _classify_texts(self, contents: list[bytes], workers: int) -> Iterator[Prediction]:
        from tasks.networks.text_batches import run_texts

        for found in run_texts(self._session, self._outputs, [self._tokens.read(each) for each in contents], workers):
            yield Prediction(found[0], found[1] if len(found) > 1 else None)

    def _run(self, feed: Feed) -> Prediction:
        found = [np.asarray(each) for each in self._session.run(self._outputs, feed)]
        return Prediction(found[0], found[1] if len(found) > 1 else None)


def tokens_of(metadata: Mapping[str, str], tokenizer: bytes | None, where: str):
    """The tokenizer that a model for texts was made with.

    Raises:
        HeadstartError: it is missing, or another.
    """
    from tasks.modality.texts.tokens import Tokens

    if tokenizer is None:
        raise HeadstartError(f"{where} classifies texts, and needs its {TOKENIZER} beside it")
    if hashlib.sha256(tokenizer).hexdigest() != metadata.get(TOKENIZER):
        raise HeadstartError(f"the {TOKENIZER} is not the one that {where} was made with")
    return Tokens(tokenizer, int(metadata["max_tokens"]))


def _beside(file: Path) -> bytes | None:
    path = file.with_name(TOKENIZER)
    return path.read_bytes() if path.is_file() else None
