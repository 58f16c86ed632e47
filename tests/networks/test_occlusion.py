"""The heat lies where the evidence does, and is what running the layers above on maps with filled spots gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.networks.occlusion import GRID, Occlusion, bells, last_means, log_odds
from tasks.networks.onnx_graph import part
from tasks.networks.onnx_session import open_session
from tests.deploy.serving.models import colour_model

SIDE = 28


def network(pooling: str) -> onnx.ModelProto:
    """Two convolutions, and of the second's 4 maps 3 classes by a pooling that is named."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "first"], ["before"], strides=[2, 2]),
        helper.make_node("Relu", ["before"], ["lower"]),
        helper.make_node("Conv", ["lower", "second"], ["after"], strides=[2, 2]),
        helper.make_node("Relu", ["after"], ["upper"]),
    ]
    if pooling == "global":
        nodes += [
            helper.make_node("GlobalAveragePool", ["upper"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["rows"]),
        ]
    elif pooling == "two layers":
        nodes += [
            helper.make_node("ReduceMean", ["upper", "axes"], ["one"], keepdims=0),
            helper.make_node("ReduceMean", ["lower", "axes"], ["other"], keepdims=0),
            helper.make_node("Concat", ["one", "other"], ["rows"], axis=1),
        ]
    elif pooling == "largest":
        nodes.append(helper.make_node("ReduceMax", ["upper", "axes"], ["rows"], keepdims=0))
    elif pooling == "gated":  # a mean that only says how much of each map counts, and maps pooled otherwise
        nodes += [
            helper.make_node("GlobalAveragePool", ["upper"], ["gate"]),
            helper.make_node("Mul", ["upper", "gate"], ["gated"]),
            helper.make_node("ReduceMax", ["gated", "axes"], ["rows"], keepdims=0),
        ]
    nodes += [
        helper.make_node("MatMul", ["rows", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    width = 8 if pooling == "two layers" else 4
    shapes = {"first": (4, 3, 2, 2), "second": (4, 4, 2, 2), "weights": (width, 3)}
    constants: list[Any] = [
        numpy_helper.from_array((0.05 * rng.normal(size=shape)).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    graph = helper.make_graph(
        nodes,
        pooling,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])],
        [*constants, numpy_helper.from_array(np.array([-1, -2], np.int64), "axes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize(("down", "across"), [(0, 0), (1, 5), (3, 3), (6, 2)])
def test_the_heat_is_where_the_only_evidence_is(down: int, across: int):
    """The model names the strongest channel, and one spot of the picture has a colour."""
    pixels = np.zeros((70, 140, 3), np.uint8)
    pixels[10 * down : 10 * (down + 1), 20 * across : 20 * (across + 1), 1] = 250
    occlusion = Occlusion(colour_model(sharpness=1.0))
    look = occlusion.look(pixels)
    assert look.probabilities.argmax() == 1
    heat = occlusion.heat(look, 1, occlusion.typical([]))
    assert np.unravel_index(heat.argmax(), heat.shape) == (down, across)
    assert heat.min() >= -1e-6
    away = np.hypot(*(np.indices(heat.shape) - np.array([down, across])[:, None, None])) > 3
    assert heat[away].max() < 0.2 * heat.max()


@pytest.mark.parametrize("pooling", ["global", "two layers"])
def test_the_closed_form_is_what_the_layers_above_make_of_filled_maps(pooling: str):
    model = network(pooling)
    occlusion = Occlusion(model.SerializeToString())
    images = np.random.default_rng(1).integers(0, 255, (3, SIDE, SIDE, 3), np.uint8)
    look, *others = (occlusion.look(image) for image in images)
    typical = occlusion.typical(others)
    upper = {mean.of: at for at, mean in enumerate(last_means(model))}
    filled = {}
    for name, at in upper.items():
        values = look.maps[at]
        side = len(values)
        shares = np.einsum("yh,xw->yxhw", bells(side), bells(side)).reshape(-1, side, side, 1)
        filled[name] = ((1 - shares) * values + shares * typical[at]).transpose(0, 3, 1, 2).astype(np.float32)
    above = open_session(part(model, list(filled), ["probabilities"]).SerializeToString())
    probabilities = np.asarray(above.run(["probabilities"], filled)[0])
    expected = log_odds(look.probabilities[None], 2) - log_odds(probabilities, 2)
    found = occlusion.heat(look, 2, typical)
    assert np.abs(found).max() > 1e-3
    np.testing.assert_allclose(found, expected.reshape(GRID, GRID), atol=1e-5)


@pytest.mark.parametrize("pooling", ["largest", "gated"])
def test_a_model_that_pools_in_another_way_has_no_maps(pooling: str):
    occlusion = Occlusion(network(pooling).SerializeToString(), "rows")
    assert not occlusion.has_maps
    look = occlusion.look(np.zeros((SIDE, SIDE, 3), np.uint8))
    assert (look.maps, look.row.shape, look.probabilities.shape) == ((), (4,), (3,))


def test_a_sure_class_still_has_its_heat():
    """Probabilities of 1 in float32, of which nothing could be seen to fall."""
    pixels = np.zeros((70, 70, 3), np.uint8)
    pixels[:20, :20, 0] = 255
    occlusion = Occlusion(colour_model(sharpness=2.0))
    look = occlusion.look(pixels)
    assert look.probabilities[0] == 1.0
    assert occlusion.heat(look, 0, occlusion.typical([]))[1, 1] > 1
