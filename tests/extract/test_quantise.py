"""The 8-bit feature extractor: what is in 8 bits and what is not, made once, the same wherever it is used."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tasks.config import POOLED
from tasks.export.familiar import fit_familiarity_basis
from tasks.export.model import export_model
from tasks.extract.engine import Decoding, choose_engine, embed
from tasks.extract.plan import cut, embed_shard, missing_tasks
from tasks.extract.quantise import log_speed, milliseconds_an_image, quantised
from tasks.finetune.head import build_head
from tasks.ingest.catalogue import build_catalogue
from tasks.modality.images.augmentation import Policy, load_policy
from tasks.modality.images.content import decode
from tasks.networks.head_file import save_head
from tasks.networks.onnx_session import open_session
from tasks.networks.registry import EMBEDDED
from tasks.records import FeatureExtractor, Run, Snapshot
from tasks.split.assign import make_snapshot
from tasks.storage.snapshots import read_snapshot
from tasks.storage.tables import LOGITS, write_table
from tests import photos
from tests.extractors import exported
from tests.runs import make_head_record, make_run

LOWER = "block_12_add"
POLICY: Policy = load_policy("flip", 0)
Stage = tuple[Run, Snapshot, FeatureExtractor, FeatureExtractor]


def prepared(folder: Path, boundary: str, workspace: str = "w") -> Stage:
    """The run, its snapshot, and the feature extractor in float32 and in 8 bits."""
    source = folder / "photos"
    config = {"backbone": {"name": EMBEDDED, "image_size_px": 64, "boundary": boundary, "precision": "int8"}}
    run = make_run(folder / workspace, source, config=config)
    extractor = exported(run, POLICY)
    snapshot = make_snapshot(run, build_catalogue(run))
    return run, snapshot, extractor, quantised(run, extractor, snapshot)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantise")
    photos.class_folders(folder / "photos", {"red": 10, "green": 10})
    return folder


@pytest.fixture(scope="module")
def stage(folder: Path) -> Callable[[str], Stage]:
    made = {boundary: prepared(folder, boundary) for boundary in (POOLED, LOWER)}
    return made.__getitem__


def graph_of(run: Run, path: str) -> onnx.ModelProto:
    return onnx.load_model_from_string(run.workspace.read_bytes(path))


def convolution_weights(model: onnx.ModelProto) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """The weights of int8 convolutions that are not depthwise, of those that are, and of float32 ones."""
    constants = {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    dense, depthwise, floats = [], [], []
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        source = makers.get(node.input[1])
        if source is None or source.op_type != "DequantizeLinear":
            floats.append(constants.get(node.input[1]))
            continue
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        (depthwise if groups > 1 else dense).append(constants[source.input[0]])
    return dense, depthwise, floats


def largest(weights: list[np.ndarray]) -> int:
    return max(int(np.abs(values.astype(int)).max()) for values in weights)


def test_dense_weights_have_7_bits_and_depthwise_ones_8(stage: Callable[[str], Stage]):
    run, _, _, eight = stage(POOLED)
    dense, depthwise, floats = convolution_weights(graph_of(run, eight.onnx_path))
    assert (len(dense), len(depthwise), len(floats)) == (35, 17, 0)
    assert all(values.dtype == np.int8 for values in (*dense, *depthwise))
    assert largest(dense) <= 64  # two products of it with 255 fit into 16 bits
    assert largest(depthwise) > 64
    assert 2 * 255 * largest(dense) < 2**15


def test_what_lies_above_a_lower_boundary_stays_in_float32(stage: Callable[[str], Stage]):
    run, _, _, eight = stage(LOWER)
    dense, depthwise, floats = convolution_weights(graph_of(run, eight.onnx_path))
    assert (len(dense), len(depthwise), len(floats)) == (35 - 9, 17 - 4, 9 + 4)
    assert largest(dense) <= 64


@pytest.mark.parametrize("boundary", [POOLED, LOWER])
def test_its_answers_are_near_those_of_the_float32_extractor(stage: Callable[[str], Stage], boundary: str):
    run, _, extractor, eight = stage(boundary)
    sessions = [open_session(run.workspace.local_file(one.onnx_path)) for one in (extractor, eight)]
    pixels = np.asarray(photos.photo(seed=77))[None]
    for name in ("features", extractor.output):
        exact, found = (np.asarray(session.run([name], {"image": pixels})[0]) for session in sessions)
        assert exact.shape == found.shape
        assert np.corrcoef(exact.ravel(), found.ravel())[0, 1] > 0.9
    assert {output.name for output in sessions[1].get_outputs()} == {"features", extractor.output}


@pytest.mark.parametrize("boundary", [POOLED, LOWER])
def test_the_shipped_model_has_the_very_extractor_that_made_the_features(stage: Callable[[str], Stage], boundary: str):
    """model.onnx on an image equals the Keras head on the row that extraction would store for it."""
    import keras

    from tasks.finetune.unfrozen import join, unfrozen_layers

    run, snapshot, _, eight = stage(boundary)
    tasks = missing_tasks(run, snapshot, eight, POLICY)[:4]
    rows = np.concatenate(
        [answers[eight.output] for _, answers in embed(tasks, choose_engine(run, eight), Decoding(max_pixels=10**6))]
    ).astype(np.float32)
    head = build_head(np.abs(np.random.default_rng(0).normal(size=(50, sum(eight.widths)))), 2, run.config.finetune)
    head.get_layer("classifier").set_weights([np.random.default_rng(1).normal(size=(128, 2)), np.zeros(2)])
    model = head if boundary == POOLED else join(unfrozen_layers(eight), head)
    reference = make_head_record(run, snapshot, eight)
    save_head(run.workspace, reference.keras_path, model)
    for shard in cut(missing_tasks(run, snapshot, eight, POLICY), 64):  # what the familiarity is fitted to
        embed_shard(run, eight, POLICY, choose_engine(run, eight), shard)
    images = read_snapshot(run.workspace, snapshot.id, ["sha256", "split"]).query("split == 'validation'")
    table = images.assign(logits=list(np.tile([0.0, 1.0], (len(images), 1))))
    write_table(run.workspace, reference.validation_path, table, LOGITS)
    shipped = export_model(run, reference, fit_familiarity_basis(run, reference.features), version=1)

    session = open_session(run.workspace.local_file(shipped.onnx_path))
    found = [
        np.asarray(session.run(["probabilities"], {"image": decode(Path(task.uri).read_bytes(), 10**6)[None]})[0])
        for task in tasks
    ]
    logits: Any = model(rows.reshape(-1, *model.input_shape[1:]), training=False)
    np.testing.assert_allclose(np.concatenate(found), keras.ops.softmax(logits), atol=5e-3)
    mine, theirs = (convolution_weights(graph_of(run, path)) for path in (shipped.onnx_path, eight.onnx_path))
    for own, others in zip(mine[:2], theirs[:2], strict=True):
        assert all((a == b).all() for a, b in zip(own, others, strict=True))


def test_it_is_calibrated_once_and_kept_when_data_grow(stage: Callable[[str], Stage], folder: Path):
    run, _, extractor, eight = stage(POOLED)
    before = run.workspace.read_bytes(eight.onnx_path)
    photos.class_folders(folder / "more", {"red": 12, "green": 12}, start=500)
    grown = replace(run, source=str(folder / "more"))
    again = quantised(grown, extractor, make_snapshot(grown, build_catalogue(grown)))
    assert again == eight
    assert run.workspace.read_bytes(eight.onnx_path) == before


@pytest.mark.parametrize("boundary", [POOLED, LOWER])
def test_the_key_is_that_of_the_calibration_images(stage: Callable[[str], Stage], folder: Path, boundary: str):
    run, snapshot, extractor, eight = stage(boundary)
    assert eight.precision == "int8"
    assert len({extractor.key, extractor.head_key, eight.key, eight.head_key}) == (2 if boundary == POOLED else 4)
    Path(run.workspace.path(eight.onnx_path)).unlink()
    assert quantised(run, extractor, snapshot) == eight  # made again from the same images

    photos.class_folders(folder / "others" / "photos", {"red": 9, "green": 9}, start=900)
    *_, other = prepared(folder / "others", boundary)
    assert other.key != eight.key


def test_each_model_has_an_8_bit_extractor_of_its_own(stage: Callable[[str], Stage], folder: Path):
    run, _, extractor, eight = stage(POOLED)
    photos.class_folders(folder / "other model", {"red": 9, "green": 9}, start=2000)
    other = replace(run, name="other", source=str(folder / "other model"))
    own = quantised(other, extractor, make_snapshot(other, build_catalogue(other)))
    assert own.onnx_path != eight.onnx_path
    assert own.key != eight.key
    assert quantised(run, extractor, stage(POOLED)[1]) == eight


def test_where_8_bits_are_no_faster_it_says_so(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    log_speed(4.6, 2.2)
    log_speed(4.6, 4.4)
    faster, slower = caplog.records
    assert (faster.levelname, faster.message) == ("INFO", "an image takes 2.2 ms in 8 bits here, 4.6 ms in 32 bits")
    assert slower.levelname == "WARNING"
    assert "hardly a faster one on this processor: an image takes 4.4 ms in 8 bits here" in slower.message


def test_models_are_timed_in_turn(stage: Callable[[str], Stage]):
    run, _, float32, int8 = stage(POOLED)
    images = [np.asarray(photos.photo(seed)) for seed in range(3)]
    models = [graph_of(run, extractor.onnx_path) for extractor in (float32, int8)]
    assert all(0 < took_ms < 10_000 for took_ms in milliseconds_an_image(models, images))
