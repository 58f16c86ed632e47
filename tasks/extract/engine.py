"""The pass through the feature extractor: decode, augment and infer.

`onnxruntime`, for CPUs: each worker thread takes an image from bytes to feature rows. Without queues between the steps
no core waits for another, and an image's pixels stay in the cache of one core. ONNX Runtime runs one image at a time on
one thread for each worker. MobileNetV2 at 224 px on 2 cores reached 430 images/s that way, 412 in batches of 4, and 284
in batches of 64 that use both cores.

On a GPU: worker threads decode, augment and run the preprocessing graph, while the GPU runs the network on the previous
batch: in ONNX Runtime the graph that was exported, in TensorFlow the Keras network that it was exported from.

Texts: `TextEngine`, in ONNX Runtime, in batches of texts of one length (`tasks.networks.text_batches`).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tasks.config import is_onnx_file
from tasks.errors import ConfigError
from tasks.modality.images.augmentation import Augmenter
from tasks.modality.images.content import decode
from tasks.modality.items import read_checked
from tasks.modality.texts.tokens import Tokens
from tasks.networks.onnx_session import available_cores, has_cuda, open_on_gpu, open_session
from tasks.networks.text_batches import run_texts
from tasks.records import FeatureExtractor, Run

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

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
    """The configured engine. ONNX Runtime takes a GPU that it can use; where it can't, `auto` takes TensorFlow if that
    can, else the CPUs.

    Raises:
        ConfigError: an 8-bit feature extractor on TensorFlow.
    """
    wanted = run.config.extract.engine
    check_engine(wanted, extractor.precision, extractor.backbone)
    if extractor.task == "text":
        return TextEngine(run.workspace.local_file(extractor.onnx_path))
    if wanted == "tensorflow":
        return TensorflowEngine(extractor)
    graph = run.workspace.local_file(extractor.onnx_path)
    if extractor.precision == "int8":  # in 8 bits for CPUs
        return OnnxRuntimeEngine(graph)
    if on_cuda := _on_cuda(graph):
        return on_cuda
    if wanted == "auto" and extractor.in_keras and _tensorflow_has_gpu():
        return TensorflowEngine(extractor)
    return OnnxRuntimeEngine(graph)


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


class GpuEngine(ABC):
    """A network on a GPU, in batches, after the preprocessing graph of model.onnx on the threads of the CPU.

    In float32 throughout, without TensorFloat-32, because model.onnx is judged, and answers, in float32.
    """

    def __init__(self, preprocessing: onnx.ModelProto) -> None:
        self._preprocessing = open_session(preprocessing.SerializeToString())

    @abstractmethod
    def forward(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of pixels float32 [N, 3, S, S]: float32 [N, ...] each."""

    def embed(self, tasks: Sequence[Task], views: Views, workers: int) -> Iterator[tuple[Task, Outputs]]:
        def pixels(task: Task) -> np.ndarray:
            found = [np.asarray(self._preprocessing.run(["pixels"], {"image": view[None]})[0]) for view in views(task)]
            return np.concatenate(found)

        batches = [tasks[start : start + GPU_BATCH_IMAGES] for start in range(0, len(tasks), GPU_BATCH_IMAGES)]
        with ThreadPoolExecutor(workers, thread_name_prefix="embed") as pool:
            coming = pool.map(pixels, batches[0] if batches else [])
            for batch, following in zip_longest(batches, batches[1:], fillvalue=()):
                ready = np.concatenate(list(coming))
                coming = pool.map(pixels, following)  # prepared during this batch
                yield from _by_task(batch, self._in_batches(ready))

    def _in_batches(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of any number of views, by batches of one size: cuDNN plans each convolution anew for another.

        420 images in batches of 64 and one of 36 took 2.0 s, and 0.6 s where the last was filled up (MobileNetV2 on an
        NVIDIA H200).
        """
        filled = np.pad(pixels, [(0, -len(pixels) % GPU_BATCH_IMAGES), (0, 0), (0, 0), (0, 0)])
        found = [self.forward(batch) for batch in np.split(filled, len(filled) // GPU_BATCH_IMAGES)]
        return {name: np.concatenate([each[name] for each in found])[: len(pixels)] for name in found[0]}


class CudaEngine(GpuEngine):
    """The exported feature extractor in ONNX Runtime on a GPU.

    Raises:
        OSError: ONNX Runtime can't load the libraries of CUDA.
    """

    def __init__(self, onnx_file: str | bytes) -> None:
        import onnx

        from tasks.networks.onnx_graph import part

        model = onnx.load_model_from_string(onnx_file) if isinstance(onnx_file, bytes) else onnx.load(onnx_file)
        self._outputs = [output.name for output in model.graph.output]
        self._session = open_on_gpu(part(model, ["pixels"], self._outputs).SerializeToString())
        super().__init__(part(model, ["image"], ["pixels"]))

    def forward(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        found = self._session.run(self._outputs, {"pixels": pixels})
        return {name: np.asarray(values) for name, values in zip(self._outputs, found, strict=True)}


class TensorflowEngine(GpuEngine):
    """The Keras feature extractor in TensorFlow."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        import keras  # noqa: F401 - before TensorFlow, see tasks/networks/keras_process.py
        import tensorflow as tf

        from tasks.networks.extractor import build_outputs
        from tasks.networks.onnx_graph import preprocessing
        from tasks.networks.registry import get_backbone

        tf.config.experimental.enable_tensor_float_32_execution(False)
        # Otherwise it takes all of a GPU's memory, of which the Keras process needs some.
        for device in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(device, True)
        super().__init__(preprocessing(extractor.image_size_px, get_backbone(extractor.backbone).normalisation))
        model = build_outputs(extractor)
        shape = (None, 3, extractor.image_size_px, extractor.image_size_px)
        # One signature for full and partial batches, so that the network is traced once.
        self._forward = tf.function(
            lambda pixels: model(tf.transpose(pixels, [0, 2, 3, 1]), training=False),
            input_signature=[tf.TensorSpec(shape, tf.float32)],
        )

    def forward(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        outputs: Any = self._forward(pixels)
        return {name: values.numpy() for name, values in outputs.items()}


def _by_task(batch: Sequence[Task], outputs: dict[str, np.ndarray]) -> Iterator[tuple[Task, Outputs]]:
    """Each task's rows of the outputs of a batch."""
    stops = np.cumsum([len(task.views) for task in batch]).tolist()
    for task, stop in zip(batch, stops, strict=True):
        rows = slice(stop - len(task.views), stop)
        yield task, {name: np.stack([_row(values) for values in outputs[name][rows]]) for name in task.outputs}


def _row(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1).astype(np.float16)


def _on_cuda(onnx_file: str | bytes) -> Engine | None:
    """ONNX Runtime's engine on the GPU, where there is one that it can use."""
    if not (_has_device() and has_cuda()):
        return None
    try:
        return CudaEngine(onnx_file)
    except OSError as exc:
        log.warning("there is a GPU, but ONNX Runtime can't use it (%s): going on without it", exc)
        return None


def _tensorflow_has_gpu() -> bool:
    """Imports TensorFlow only where there is a device."""
    if not _has_device():
        return False
    import keras  # noqa: F401 - before TensorFlow
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _has_device() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))
