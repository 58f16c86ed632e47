"""The pass through the feature extractor: decode, augment and infer, each core busy.

`onnxruntime`, for processors: a worker thread takes an image from bytes to feature rows by itself. There is no queue
between stages, so no core waits for another, and each image's pixels stay in its core's cache. ONNX Runtime runs one
image at a time on one thread for each worker: measured on MobileNetV2 at 224 px with 2 cores, 430 images/s so, 412 in
batches of 4, and 284 in batches of 64 spread over both cores.

`tensorflow`, for a GPU: worker threads decode, augment and run the preprocessing graph, while the GPU runs the Keras
feature extractor on the batch before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

import numpy as np

from tasks.errors import ConfigError
from tasks.modality.augmentation import Augmenter
from tasks.modality.images import decode, read_checked
from tasks.networks.onnx_session import available_cores, open_session
from tasks.records import FeatureExtractor, Run

GPU_BATCH_IMAGES = 64


@dataclass(frozen=True, slots=True)
class Task:
    """One image to embed, under each of `views`, and which outputs of the feature extractor are wanted of it."""

    sha256: str
    uri: str
    views: tuple[int, ...]
    outputs: tuple[str, ...] = ("features",)


# For each output of a task float16 [len(views), D], an activation map being one long row.
Answers = dict[str, np.ndarray]


class Engine(Protocol):
    """What runs the feature extractor. `images` gives each task's views, uint8 [H, W, 3]; it is called on worker
    threads."""

    def embed(
        self, tasks: Sequence[Task], images: Callable[[Task], list[np.ndarray]], workers: int
    ) -> Iterator[tuple[Task, Answers]]: ...


def embed(
    tasks: Sequence[Task],
    engine: Engine,
    augmenter: Augmenter | None,
    *,
    workers: int = 0,
    max_pixels: int,
    enough_px: int | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Task, Answers]]:
    """Feature rows of each image, in the order of `tasks`.

    Args:
        augmenter: makes the views above 0; None where there are none.
        workers: threads; 0 takes one for each core.
        enough_px: sides that a large JPEG may be decoded down to, see `tasks.modality.images.decode`.
        on_image: called after each image (progress).

    Raises:
        SourceChangedError: an image's bytes are no longer those that were inspected.
        DecodeError: pixels that were decodable at reduced size are damaged at full size.
    """

    def images(task: Task) -> list[np.ndarray]:
        pixels = decode(read_checked(task.uri, task.sha256), max_pixels, enough_px)
        return [pixels if augmenter is None else augmenter.view(pixels, task.sha256, view) for view in task.views]

    for done in engine.embed(tasks, images, workers or available_cores()):
        on_image()
        yield done


def check_engine(engine: str, precision: str) -> None:
    """Raises ConfigError for an 8-bit feature extractor on TensorFlow: it has no such form there."""
    if precision == "int8" and engine == "tensorflow":
        raise ConfigError(
            "an int8 feature extractor runs in ONNX Runtime: leave --engine tensorflow or --precision int8 away"
        )


def choose_engine(run: Run, extractor: FeatureExtractor) -> Engine:
    """The engine that the configuration names; `auto` takes TensorFlow where it has a GPU, else ONNX Runtime.

    Raises:
        ConfigError: an 8-bit feature extractor on TensorFlow.
    """
    wanted = run.config.extract.engine
    check_engine(wanted, extractor.precision)
    if wanted == "tensorflow" or (wanted == "auto" and extractor.precision == "fp32" and _has_gpu()):
        return TensorflowEngine(extractor)
    return OnnxRuntimeEngine(run.workspace.local_file(extractor.onnx_path))


class OnnxRuntimeEngine:
    """The exported feature extractor in ONNX Runtime, one image a worker."""

    def __init__(self, onnx_file: str | bytes) -> None:
        self._session = open_session(onnx_file)

    def embed(
        self, tasks: Sequence[Task], images: Callable[[Task], list[np.ndarray]], workers: int
    ) -> Iterator[tuple[Task, Answers]]:
        def one(task: Task) -> tuple[Task, Answers]:
            answers = [self._session.run(task.outputs, {"image": image[None]}) for image in images(task)]
            return task, {
                name: np.stack([_row(np.asarray(answer[place])) for answer in answers])
                for place, name in enumerate(task.outputs)
            }

        with ThreadPoolExecutor(workers, thread_name_prefix="embed") as pool:
            yield from pool.map(one, tasks)


class TensorflowEngine:
    """The Keras feature extractor in TensorFlow, in batches, behind the preprocessing graph that ships."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        import keras  # noqa: F401 - before TensorFlow, as everywhere: see tasks/networks/keras_process.py
        import tensorflow as tf

        from tasks.networks.extractor import build_outputs
        from tasks.networks.onnx_graph import preprocessing
        from tasks.networks.registry import get_backbone

        # What ships computes in float32: so does this, also where the GPU has shorter products.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        graph = preprocessing(extractor.image_size_px, get_backbone(extractor.backbone).normalisation)
        self._preprocessing = open_session(graph.SerializeToString())
        model = build_outputs(extractor)
        shape = (None, extractor.image_size_px, extractor.image_size_px, 3)
        # One signature for full and partial batches, so that the network is traced once.
        self._forward = tf.function(
            lambda pixels: model(pixels, training=False), input_signature=[tf.TensorSpec(shape, tf.float32)]
        )

    def embed(
        self, tasks: Sequence[Task], images: Callable[[Task], list[np.ndarray]], workers: int
    ) -> Iterator[tuple[Task, Answers]]:
        def pixels(task: Task) -> np.ndarray:
            views = [np.asarray(self._preprocessing.run(["pixels"], {"image": view[None]})[0]) for view in images(task)]
            return np.concatenate(views).transpose(0, 2, 3, 1)

        batches = [tasks[start : start + GPU_BATCH_IMAGES] for start in range(0, len(tasks), GPU_BATCH_IMAGES)]
        with ThreadPoolExecutor(workers, thread_name_prefix="embed") as pool:
            coming = pool.map(pixels, batches[0] if batches else [])
            for batch, following in zip_longest(batches, batches[1:], fillvalue=()):
                ready = np.concatenate(list(coming))
                coming = pool.map(pixels, following)  # made while this batch is computed
                answers = self._forward(ready)
                yield from _dealt(batch, {name: values.numpy() for name, values in answers.items()})  # type: ignore[union-attr]


def _dealt(batch: Sequence[Task], answers: dict[str, np.ndarray]) -> Iterator[tuple[Task, Answers]]:
    """Each task's rows of a batch's answers."""
    stops = np.cumsum([len(task.views) for task in batch]).tolist()
    for task, stop in zip(batch, stops, strict=True):
        mine = slice(stop - len(task.views), stop)
        yield task, {name: np.stack([_row(answer) for answer in answers[name][mine]]) for name in task.outputs}


def _row(answer: np.ndarray) -> np.ndarray:
    return answer.reshape(-1).astype(np.float16)


def _has_gpu() -> bool:
    """Whether TensorFlow has a GPU to run on; where no device is there to be had, it need not be imported to tell."""
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return False
    import keras  # noqa: F401 - before TensorFlow
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
