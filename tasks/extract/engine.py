"""The pass through the feature extractor: decode, augment and infer.

`onnxruntime`, for CPUs: each worker thread takes an image from bytes to feature rows. Without queues between the steps
no core waits for another, and an image's pixels stay in the cache of one core. ONNX Runtime runs one image at a time on
one thread for each worker. MobileNetV2 at 224 px on 2 cores reached 430 images/s that way, 412 in batches of 4, and 284
in batches of 64 that use both cores.

`tensorflow`, for a GPU: worker threads decode, augment and run the preprocessing graph, while the GPU runs the Keras
feature extractor on the previous batch.

Texts: `TextEngine`, in ONNX Runtime, in batches of texts of one length (`tasks.networks.text_batches`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

import numpy as np

from tasks.config import is_onnx_file
from tasks.errors import ConfigError
from tasks.modality.images.augmentation import Augmenter
from tasks.modality.images.content import decode
from tasks.modality.items import read_checked
from tasks.modality.texts.tokens import Tokens
from tasks.networks.onnx_session import available_cores, open_session
from tasks.networks.text_batches import run_texts
from tasks.records import FeatureExtractor, Run

GPU_BATCH_IMAGES = 64


@dataclass(frozen=True, slots=True)
class Task:
    """One item to embed: which views of it, and which outputs of the feature extractor."""

    sha256: str
    uri: str
    views: tuple[int, ...]
    outputs: tuple[str, ...] = ("features",)


# float16 [len(views), D] for each output of a task; an activation map is flattened to one row.
Outputs = dict[str, np.ndarray]
# Gives the views of a task's item: pixels uint8 [H, W, 3], or tokens int64 [T]; called on worker threads.
Views = Callable[[Task], list[np.ndarray]]


class Engine(Protocol):
    """Runs the feature extractor; gives the outputs of each of `tasks`."""

    def embed(self, tasks: Sequence[Task], views: Views, workers: int) -> Iterator[tuple[Task, Outputs]]: ...


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How images become pixels: limits of the decoder, and the views.

    `enough_px`: sides that a large JPEG may be reduced to while decoding, see `tasks.modality.images.content.decode`.
    `augmenter` makes the views above 0; None where there are none.
    """

    max_pixels: int
    enough_px: int | None = None
    augmenter: Augmenter | None = None

    def views(self, task: Task) -> list[np.ndarray]:
        """Reads and decodes a task's image; see `embed` for the errors."""
        pixels = decode(read_checked(task.uri, task.sha256), self.max_pixels, self.enough_px)
        if self.augmenter is None:
            return [pixels] * len(task.views)
        return [self.augmenter.view(pixels, task.sha256, view) for view in task.views]


def embed(
    tasks: Sequence[Task],
    engine: Engine,
    decoding: Decoding | Tokenising,
    workers: int = 0,
    on_image: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Task, Outputs]]:
    """Feature rows of each item, in the order of `tasks`.

    Args:
        workers: threads; 0 means one for each core.
        on_image: called after each image (progress).

    Raises:
        SourceChangedError: an image's bytes changed since they were inspected.
        DecodeError: an image could be decoded at reduced size, but not at full size.
    """
    for done in engine.embed(tasks, decoding.views, workers or available_cores()):
        on_image()
        yield done


def check_engine(engine: str, precision: str, backbone: str = "") -> None:
    """Raises ConfigError for a feature extractor on TensorFlow that it can't run: in 8 bits, or an ONNX file."""
    if is_onnx_file(backbone) and engine == "tensorflow":
        raise ConfigError(f"{backbone} only runs in ONNX Runtime: remove --engine tensorflow")
    if precision == "int8" and engine == "tensorflow":
        raise ConfigError(
            "an int8 feature extractor only runs in ONNX Runtime: remove --engine tensorflow or --precision int8"
        )


def choose_engine(run: Run, extractor: FeatureExtractor) -> Engine:
    """The configured engine; `auto` takes TensorFlow if it has a GPU, else ONNX Runtime.

    Raises:
        ConfigError: an 8-bit feature extractor on TensorFlow.
    """
    wanted = run.config.extract.engine
    check_engine(wanted, extractor.precision, extractor.backbone)
    if extractor.task == "text":
        return TextEngine(run.workspace.local_file(extractor.onnx_path))
    if wanted == "tensorflow" or (wanted == "auto" and extractor.in_keras and _has_gpu()):
        return TensorflowEngine(extractor)
    return OnnxRuntimeEngine(run.workspace.local_file(extractor.onnx_path))


@dataclass(frozen=True, kw_only=True)
class Tokenising:
    """How texts become tokens: as they are, for there are no other views of them."""

    tokens: Tokens

    def views(self, task: Task) -> list[np.ndarray]:
        """Reads a task's text; see `embed` for the errors."""
        return [self.tokens.read(read_checked(task.uri, task.sha256))]


class TextEngine:
    """The encoder of texts in ONNX Runtime."""

    def __init__(self, onnx_file: str | bytes) -> None:
        self._session = open_session(onnx_file)

    def embed(self, tasks: Sequence[Task], views: Views, workers: int) -> Iterator[tuple[Task, Outputs]]:
        with ThreadPoolExecutor(workers, thread_name_prefix="tokens") as pool:
            tokens = [read for [read] in pool.map(views, tasks)]
        for task, [row] in zip(tasks, run_texts(self._session, ["features"], tokens, workers), strict=True):
            yield task, {"features": _row(row)[None]}


class OnnxRuntimeEngine:
    """The exported feature extractor in ONNX Runtime, one image at a time on each worker."""

    def __init__(self, onnx_file: str | bytes) -> None:
        self._session = open_session(onnx_file)

    def embed(self, tasks: Sequence[Task], views: Views, workers: int) -> Iterator[tuple[Task, Outputs]]:
        def one(task: Task) -> tuple[Task, Outputs]:
            found = [self._session.run(task.outputs, {"image": image[None]}) for image in views(task)]
            return task, {
                name: np.stack([_row(np.asarray(values)) for values in column])
                for name, column in zip(task.outputs, zip(*found, strict=True), strict=True)
            }

        with ThreadPoolExecutor(workers, thread_name_prefix="embed") as pool:
            yield from pool.map(one, tasks)


class TensorflowEngine:
    """The Keras feature extractor in TensorFlow, in batches, after the preprocessing graph of model.onnx."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        import keras  # noqa: F401 - before TensorFlow, see tasks/networks/keras_process.py
        import tensorflow as tf

        from tasks.networks.extractor import build_outputs
        from tasks.networks.onnx_graph import preprocessing
        from tasks.networks.registry import get_backbone

        # Full float32 also on GPUs with TensorFloat-32, because model.onnx computes in float32.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        graph = preprocessing(extractor.image_size_px, get_backbone(extractor.backbone).normalisation)
        self._preprocessing = open_session(graph.SerializeToString())
        model = build_outputs(extractor)
        shape = (None, extractor.image_size_px, extractor.image_size_px, 3)
        # One signature for full and partial batches, so that the network is traced once.
        self._forward = tf.function(
            lambda pixels: model(pixels, training=False), input_signature=[tf.TensorSpec(shape, tf.float32)]
        )

    def embed(self, tasks: Sequence[Task], views: Views, workers: int) -> Iterator[tuple[Task, Outputs]]:
        def pixels(task: Task) -> np.ndarray:
            found = [np.asarray(self._preprocessing.run(["pixels"], {"image": view[None]})[0]) for view in views(task)]
            return np.concatenate(found).transpose(0, 2, 3, 1)

        batches = [tasks[start : start + GPU_BATCH_IMAGES] for start in range(0, len(tasks), GPU_BATCH_IMAGES)]
        with ThreadPoolExecutor(workers, thread_name_prefix="embed") as pool:
            coming = pool.map(pixels, batches[0] if batches else [])
            for batch, following in zip_longest(batches, batches[1:], fillvalue=()):
                ready = np.concatenate(list(coming))
                coming = pool.map(pixels, following)  # prepared during this batch
                outputs = self._forward(ready)
                yield from _by_task(batch, {name: values.numpy() for name, values in outputs.items()})  # type: ignore[union-attr]


def _by_task(batch: Sequence[Task], outputs: dict[str, np.ndarray]) -> Iterator[tuple[Task, Outputs]]:
    """Each task's rows of the outputs of a batch."""
    stops = np.cumsum([len(task.views) for task in batch]).tolist()
    for task, stop in zip(batch, stops, strict=True):
        rows = slice(stop - len(task.views), stop)
        yield task, {name: np.stack([_row(values) for values in outputs[name][rows]]) for name in task.outputs}


def _row(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1).astype(np.float16)


def _has_gpu() -> bool:
    """Whether TensorFlow has a GPU; imports TensorFlow only where there is a device."""
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return False
    import keras  # noqa: F401 - before TensorFlow
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
