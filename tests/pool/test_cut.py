"""A model is cut where everything above depends on one row an image, and the halves give what the whole gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.networks.classifier import Classifier
from tasks.networks.familiarity import attach, fit_basis
from tasks.networks.occlusion import Occlusion
from tasks.networks.onnx_session import open_model
from tasks.pool.cut import Head, cut_champion, cut_model, narrowest_value
from tasks.workspace import Workspace
from tests.deploy.serving.models import colour_model, manifest, publish

PIXELS = np.random.default_rng(0).integers(0, 255, (5, 20, 30, 3), np.uint8)


def test_the_halves_give_what_the_model_gives():
    whole = Classifier(colour_model()).probabilities(PIXELS)
    model = cut_model(colour_model())
    assert (model.output, model.labels, model.last_width) == ("means", ("red", "green", "blue"), None)
    [rows] = open_model(model.body).run([model.output], {"image": PIXELS})
    np.testing.assert_allclose(Head(model).probabilities(np.asarray(rows)), whole, atol=1e-6)
    np.testing.assert_allclose(Head(model).probabilities(np.asarray(rows).astype(np.float16)), whole, atol=5e-3)


def test_a_value_beside_which_the_image_is_used_again_is_passed_over():
    """Two means of the image, added: each alone is a row an image, and neither is all that the rest needs."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["one"], keepdims=0),
        helper.make_node("ReduceMax", ["pixels", "axes"], ["other"], keepdims=0),
        helper.make_node("Add", ["one", "other"], ["both"]),
        helper.make_node("Softmax", ["both"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.array([1, 2], np.int64), "axes")],
    )
    assert narrowest_value(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])) == "both"


def test_only_a_published_version_may_use_the_rows_of_its_training():
    model = onnx.load_model_from_string(colour_model())
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["features" if name == "means" else name for name in names]
    content = model.SerializeToString()
    lineage = {"snapshot": "s", "features": {"extractor": {"key": "k", "widths": [2, 1], "image_size_px": 32}}}
    published = cut_model(content, manifest(content, 3, lineage=lineage))
    assert (published.key, published.last_width, published.image_size_px) == ("k", 2, 32)
    assert (published.version, published.snapshot) == ("3", "s")
    assert cut_model(content).key not in ("k", cut_model(colour_model()).key)


def test_the_champion_is_the_newest_version(tmp_path: Path):
    publish(tmp_path, 1)
    publish(tmp_path, 2)
    assert cut_champion(Workspace(str(tmp_path)), "colours").version == "2"


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_a_head_takes_any_number_of_rows(count: int):
    rows = np.random.default_rng(1).random((count, 3), np.float32)
    assert Head(cut_model(colour_model())).probabilities(rows).shape == (count, 3)


def fine_tuned_model() -> bytes:
    """A model whose classes follow from the means of what a layer makes of its activations, and whose familiarity
    follows from the means of the activations themselves, too."""
    rng = np.random.default_rng(5)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["pixels", "lower"], ["activations"]),
        helper.make_node("MatMul", ["activations", "upper"], ["product"]),
        helper.make_node("Relu", ["product"], ["maps"]),
        helper.make_node("ReduceMean", ["maps", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = {"lower": (3, 6), "upper": (6, 5), "weights": (5, 3)}
    initializers = [numpy_helper.from_array(np.array([1, 2], np.int64), "axes")] + [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32) / 16, name)
        for name, shape in constants.items()
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph(nodes, "tuned", [image], [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"labels": json.dumps(["a", "b", "c"]), "name": "tuned"})
    rows, logits = rng.normal(size=(60, 6)) * 20, rng.normal(size=(60, 3))
    fitted = fit_basis(rows, np.arange(60) % 3, rows[:20]).with_logits(logits[:20], 0.95)
    return attach(model, fitted, "activations").SerializeToString()


def test_where_layers_were_fine_tuned_the_rows_hold_what_familiarity_needs():
    content = fine_tuned_model()
    model = cut_model(content)
    assert (model.output, model.last_width, model.has_familiarity) == ("row", 5, True)
    [rows] = open_model(model.body).run([model.output], {"image": PIXELS})
    assert np.asarray(rows).shape == (len(PIXELS), 5 + 6)
    found = Head(model).predict(np.asarray(rows))
    probabilities, familiarity = open_model(content).run(["probabilities", "familiarity"], {"image": PIXELS})
    assert found.familiarity is not None
    np.testing.assert_allclose(found.probabilities, np.asarray(probabilities), atol=1e-6)
    np.testing.assert_allclose(found.familiarity, np.asarray(familiarity), atol=1e-5)
    look = Occlusion(model.whole, model.output).look(PIXELS[0])
    np.testing.assert_allclose(look.row, np.asarray(rows)[0], atol=1e-4)
