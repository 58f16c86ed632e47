"""Variants of a real graph in the shape of model.onnx: what they keep, what is measured, and what is not published."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pytest
from onnx import parser

from tasks.export.variants import export_variants
from tasks.networks.classifier import Classifier
from tasks.networks.onnx_graph import chain, classification, describe, preprocessing
from tasks.networks.registry import AS_IT_IS
from tasks.records import Candidate, Decision, Run
from tasks.storage.tables import write_table
from tests.photos import encoded, photo
from tests.runs import keep_snapshot, make_head_record, make_run

LABELS = ("green", "red")
EXTRACTOR = """
<ir_version: 8, opset_import: ["" : 18]>
extractor (float[N,3,32,32] pixels) => (float[N,8] features)
<float[8,3,3,3] kernels, float[8] bias>
{
  maps = Conv <strides = [2, 2]> (pixels, kernels, bias)
  active = Relu (maps)
  pooled = GlobalAveragePool (active)
  features = Flatten (pooled)
}
"""
HEAD = """
<ir_version: 8, opset_import: ["" : 18]>
head (float[N,8] features) => (float[N,2] logits)
<float[8,2] weights>
{ logits = MatMul (features, weights) }
"""


def part(text: str, **constants: np.ndarray) -> onnx.ModelProto:
    model = parser.parse_model(text)
    del model.graph.initializer[:]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()
    )
    return model


def red_or_green() -> bytes:
    """Half the kernels see red, half green; the head compares them."""
    kernels = np.zeros((8, 3, 3, 3))
    kernels[:4, 1], kernels[4:, 0] = 1 / 900, 1 / 900
    kernels += np.random.default_rng(0).normal(0, 1e-5, kernels.shape)
    weights = np.array([[1.0, -1]] * 4 + [[-1.0, 1]] * 4)
    model = chain(
        preprocessing(32, AS_IT_IS),
        part(EXTRACTOR, kernels=kernels, bias=np.zeros(8)),
        part(HEAD, weights=weights),
        classification(LABELS, 0.1),
    )
    describe(model, {"labels": list(LABELS), "name": "shapes", "version": "1"})
    return model.SerializeToString()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose test split holds 12 images, each with its table rows, that model.onnx answered rightly."""
    run = make_run(tmp_path / "w", tmp_path, config={"export": {"variants": ["float16", "int8"]}})
    rows = []
    for number in range(24):
        label = LABELS[number % 2]
        content = encoded(photo(number, size=(40, 30), hue={"red": 0, "green": 1}[label]), "PNG")
        file = tmp_path / f"{number}.png"
        file.write_bytes(content)
        split = "test" if number < 12 else "train"
        rows.append((hashlib.sha256(content).hexdigest(), str(file), label, split, label))
    table = pd.DataFrame(rows, columns=["sha256", "uri", "label", "split", "predicted"])
    schema = pa.schema([(name, pa.string()) for name in table.columns])
    write_table(run.workspace, run.path("predictions.parquet"), table, schema)
    run.workspace.write_bytes(run.path("model.onnx"), red_or_green())
    return run


def variants_of(run: Run) -> dict[str, Any]:
    snapshot = keep_snapshot(run, pd.read_parquet(run.workspace.path(run.path("predictions.parquet"))))
    candidate = Candidate(head=make_head_record(run, snapshot), onnx_path=run.path("model.onnx"), sha256="", version=1)
    decision = Decision(candidate=candidate, promote=True, reasons=(), gates=(), folder=run.folder)
    return {variant.precision: variant for variant in export_variants(run, decision)}


def test_each_variant_answers_like_the_model_and_says_what_it_costs(run: Run):
    judged = Classifier(red_or_green())
    for precision, variant in variants_of(run).items():
        content = run.workspace.read_bytes(variant.onnx_path)
        assert hashlib.sha256(content).hexdigest() == variant.sha256
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model, full_check=True)
        types = {tensor.data_type for tensor in model.graph.initializer}
        assert {"float16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.INT8}[precision] in types
        answers = Classifier(content)
        assert answers.metadata["precision"] == precision
        assert answers.metadata["name"] == "shapes"
        pixels = np.asarray(photo(2, size=(300, 200), hue=0))
        assert np.abs(answers.probabilities(pixels) - judged.probabilities(pixels)).max() < 0.05
        assert variant.published
        assert variant.measured["n"] == 12
        assert variant.measured["accuracy"] >= 0.9
        assert variant.measured["ms_per_image"] > 0


def test_a_variant_that_loses_too_much_is_not_published(run: Run):
    from dataclasses import replace

    table = pd.read_parquet(run.workspace.path(run.path("predictions.parquet")))
    # As if the judged model had been right where each variant is wrong: it never names a third class.
    table["label"] = table["predicted"] = "blue"
    schema = pa.schema([(name, pa.string()) for name in table.columns])
    write_table(run.workspace, run.path("predictions.parquet"), table, schema)
    only = run.config.model_copy(update={"export": run.config.export.model_copy(update={"variants": ["float16"]})})
    [variant] = variants_of(replace(run, config=only)).values()
    assert not variant.published
    assert variant.measured["accuracy_drop"] == 1.0
