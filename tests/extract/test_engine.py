"""Both engines make the same rows, in order, and only what was asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from tasks.config import POOLED
from tasks.errors import ConfigError
from tasks.extract import engine as module
from tasks.extract.engine import (
    CudaEngine,
    Decoding,
    OnnxRuntimeEngine,
    Task,
    TensorflowEngine,
    choose_engine,
    embed,
)
from tasks.extract.plan import cut, embed_shard, missing_tasks
from tasks.ingest.catalogue import build_catalogue
from tasks.modality.images.augmentation import Augmenter, Policy, load_policy
from tasks.networks.onnx_session import has_cuda, open_session
from tasks.records import FeatureExtractor, Run, Snapshot
from tasks.split.assign import make_snapshot
from tasks.storage.feature_store import feature_store
from tasks.storage.tables import read_table
from tests import photos
from tests.extractors import exported
from tests.runs import make_run

LOWER = "block_12_add"
Stage = tuple[Run, Snapshot, FeatureExtractor, Policy]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, small_extractor: dict[str, object]) -> Callable[[str], Stage]:
    folder = tmp_path_factory.mktemp("engine")
    source = photos.class_folders(folder / "photos", {"red": 10, "green": 10})
    policy = load_policy("flip", 1)

    def make(boundary: str) -> Stage:
        # Of the last layer alone: which late blocks lie above a boundary depends on the boundary.
        backbone = {**small_extractor, "boundary": boundary, "features": "last"}
        run = make_run(folder / "w", source, config={"backbone": backbone})
        extractor = exported(run, policy)
        return run, make_snapshot(run, build_catalogue(run)), extractor, policy

    return make


@pytest.mark.parametrize("gpu", ["cuda", "tensorflow"])
@pytest.mark.parametrize("boundary", [POOLED, LOWER])
def test_all_engines_make_the_same_rows(
    stage: Callable[[str], Stage], boundary: str, gpu: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "GPU_BATCH_IMAGES", 7)  # several batches, the last one smaller
    run, snapshot, extractor, policy = stage(boundary)
    tasks = missing_tasks(run, snapshot, extractor, policy)
    monkeypatch.setattr(module, "open_on_gpu", open_session)  # the same batches without a GPU
    graph = run.workspace.local_file(extractor.onnx_path)
    engines = [OnnxRuntimeEngine(graph), CudaEngine(graph) if gpu == "cuda" else TensorflowEngine(extractor)]
    cpu, other_way = (
        list(embed(tasks, engine, Decoding(max_pixels=10**6, augmenter=Augmenter(policy)))) for engine in engines
    )
    assert [task for task, _ in cpu] == [task for task, _ in other_way] == tasks
    for (task, mine), (_, other) in zip(cpu, other_way, strict=True):
        assert mine.keys() == other.keys() == set(task.outputs)
        for name in task.outputs:
            assert mine[name].dtype == other[name].dtype == np.float16
            assert mine[name].shape == other[name].shape == (len(task.views), mine[name].shape[1])
            scale = np.abs(mine[name].astype(np.float32)).max()
            np.testing.assert_allclose(mine[name], other[name], rtol=2e-3, atol=1e-3 * scale)  # float16: 2**-11


def test_one_pass_stores_both_outputs_and_test_images_have_no_activations(stage: Callable[[str], Stage]):
    run, snapshot, extractor, policy = stage(LOWER)
    todo, passes = missing_tasks(run, snapshot, extractor, policy), []
    engine = choose_engine(run, extractor)
    assert isinstance(engine, OnnxRuntimeEngine)
    session = engine._session

    class Counting:
        def run(self, *given):
            passes.append(given)
            return session.run(*given)

    engine._session = Counting()  # type: ignore[assignment]
    assert sum(embed_shard(run, extractor, policy, engine, shard) for shard in cut(todo, 8)) == snapshot.images
    assert len(passes) == sum(len(task.views) for task in todo)

    table = read_table(run.workspace, snapshot.table_path, ["sha256", "split"])
    splits = dict(zip(table["sha256"].tolist(), table["split"].tolist(), strict=True))
    views = {"train": {0, 1}, "validation": {0}, "test": {0}}
    pooled, lower = (
        {(row["sha256"], row["view"]) for part in feature_store(run.workspace, key).read() for row in part.to_pylist()}
        for key in (extractor.key, str(extractor.activations_key))
    )
    expected = {(sha256, view) for sha256, split in splits.items() for view in views[split]}
    assert pooled == expected
    assert lower == {(sha256, view) for sha256, view in expected if splits[sha256] != "test"}
    assert "test" in splits.values()
    assert missing_tasks(run, snapshot, extractor, policy) == []


def test_a_lower_boundary_leaves_the_pooled_features_their_key(stage: Callable[[str], Stage]):
    _, _, pooled, _ = stage(POOLED)
    _, _, lower, _ = stage(LOWER)
    assert pooled.key == lower.key
    assert lower.activations_key not in (None, lower.key)


def _gpu(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, tensorflow: bool) -> None:
    """A machine with a GPU that ONNX Runtime, TensorFlow, both or none can use."""
    monkeypatch.setattr(module, "_has_device", lambda: True)
    monkeypatch.setattr(module, "has_cuda", lambda: cuda)
    monkeypatch.setattr(module, "_tensorflow_has_gpu", lambda: tensorflow)
    monkeypatch.setattr(module, "open_on_gpu", open_session)


@pytest.mark.parametrize("cuda", [True, False])
@pytest.mark.parametrize("tensorflow", [True, False])
def test_auto_takes_the_gpu_by_onnx_runtime_before_tensorflow(
    stage: Callable[[str], Stage], monkeypatch: pytest.MonkeyPatch, cuda: bool, tensorflow: bool
):
    run, _, extractor, _ = stage(POOLED)
    assert isinstance(choose_engine(run, extractor), OnnxRuntimeEngine)  # this machine has none, or no package for it
    _gpu(monkeypatch, cuda=cuda, tensorflow=tensorflow)
    expected = CudaEngine if cuda else TensorflowEngine if tensorflow else OnnxRuntimeEngine
    assert isinstance(choose_engine(run, extractor), expected)


def test_onnx_runtime_by_name_never_means_tensorflow(
    stage: Callable[[str], Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run, _, extractor, _ = stage(POOLED)
    config = run.config.model_copy(update={"extract": run.config.extract.model_copy(update={"engine": "onnxruntime"})})
    _gpu(monkeypatch, cuda=False, tensorflow=True)
    assert isinstance(choose_engine(replace(run, config=config), extractor), OnnxRuntimeEngine)


def test_a_gpu_without_its_libraries_is_said_and_left(
    stage: Callable[[str], Stage], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fails(_: bytes) -> NoReturn:
        raise OSError("libcudnn.so.9: cannot open shared object file")

    run, _, extractor, _ = stage(POOLED)
    _gpu(monkeypatch, cuda=True, tensorflow=False)
    monkeypatch.setattr(module, "open_on_gpu", fails)
    assert isinstance(choose_engine(run, extractor), OnnxRuntimeEngine)
    assert "libcudnn.so.9: cannot open shared object file" in caplog.text


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_an_onnx_runtime_for_cpus_opens_no_session_on_a_gpu(stage: Callable[[str], Stage]):
    run, _, extractor, _ = stage(POOLED)
    if has_cuda():
        pytest.skip("this ONNX Runtime is built for CUDA")
    with pytest.raises(OSError, match="CUDA"):
        CudaEngine(run.workspace.local_file(extractor.onnx_path))


def test_no_device_file_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(module, "Path", lambda _: tmp_path)
    assert module._has_device() is False
    (tmp_path / "nvidiactl").touch()  # no card
    assert module._has_device() is False
    (tmp_path / "nvidia0").touch()
    assert module._has_device() is True


def test_a_gpu_meets_batches_of_one_size_alone(stage: Callable[[str], Stage], monkeypatch: pytest.MonkeyPatch):
    """Another size would have cuDNN plan each convolution anew."""
    monkeypatch.setattr(module, "GPU_BATCH_IMAGES", 4)
    monkeypatch.setattr(module, "open_on_gpu", open_session)
    run, _, extractor, _ = stage(POOLED)
    engine, sizes = CudaEngine(run.workspace.local_file(extractor.onnx_path)), []
    forward = engine.forward

    def recorded(pixels: np.ndarray) -> dict[str, np.ndarray]:
        sizes.append(len(pixels))
        return forward(pixels)

    monkeypatch.setattr(engine, "forward", recorded)
    # Training images have more views than others: the first four images 6, the next four 4, the last two 3.
    tasks = [Task(sha256=str(at), uri="", views=(0, 1) if at in (0, 3, 9) else (0,)) for at in range(10)]
    pictures = np.random.default_rng(0).integers(0, 255, (10, 2, 8, 8, 3), np.uint8)
    found = list(engine.embed(tasks, lambda task: list(pictures[int(task.sha256)][: len(task.views)]), workers=2))
    assert sizes == [4, 4, 4, 4]
    assert [task for task, _ in found] == tasks
    assert len({row.tobytes() for _, rows in found for row in rows["features"]}) == 13


def test_an_int8_extractor_is_refused_by_tensorflow_and_auto_keeps_it_from_it(
    stage: Callable[[str], Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run, _, extractor, _ = stage(POOLED)
    eight = replace(extractor, precision="int8")
    wanted = make_run(tmp_path, tmp_path, config={"extract": {"engine": "tensorflow"}})
    with pytest.raises(ConfigError, match="an int8 feature extractor only runs in ONNX Runtime"):
        choose_engine(wanted, eight)
    _gpu(monkeypatch, cuda=True, tensorflow=True)
    assert isinstance(choose_engine(run, eight), OnnxRuntimeEngine)


def test_images_are_decoded_as_rows_are_taken_not_all_at_once(
    stage: Callable[[str], Stage], monkeypatch: pytest.MonkeyPatch
):
    """The TensorFlow engine holds two batches of pixels, whatever the number of images."""
    monkeypatch.setattr(module, "GPU_BATCH_IMAGES", 2)
    decoded, lock = 0, threading.Lock()

    def images(task: Task) -> list[np.ndarray]:
        nonlocal decoded
        with lock:
            decoded += 1
        return [np.zeros((8, 8, 3), np.uint8)]

    engine = TensorflowEngine(stage(POOLED)[2])
    tasks = [Task(sha256=str(number), uri="", views=(0,)) for number in range(11)]
    found = []
    for task, _ in engine.embed(tasks, images, workers=2):
        found.append(task)
        assert decoded <= len(found) + 2 * 2
    assert found == tasks
    assert list(engine.embed([], images, workers=2)) == []
