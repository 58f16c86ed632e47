"""External data is found wherever a graph can hold a tensor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tasks.errors import DamagedFileError
from tasks.networks.self_contained import check_self_contained
from tests.deploy.serving.models import colour_model


def outside(name: str) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret.bin")
    return tensor


def as_initializer(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.initializer.append(tensor)


def as_constant(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def in_a_branch(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))


def in_a_function(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    model.functions.append(helper.make_function("own", "f", [], ["c"], [node], [helper.make_opsetid("", 18)]))


def sparse(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)


@pytest.mark.parametrize("place", [as_initializer, as_constant, in_a_branch, in_a_function, sparse])
def test_external_data_is_refused_by_name(place: Callable[[onnx.ModelProto, onnx.TensorProto], None]):
    model = onnx.load_model_from_string(colour_model())
    place(model, outside("hidden"))
    with pytest.raises(DamagedFileError, match="'hidden' in another file"):
        check_self_contained(model.SerializeToString())


def test_a_model_in_one_file_passes_also_where_a_class_has_the_words_name():
    check_self_contained(colour_model())
    check_self_contained(colour_model(["location", "external_data", "x"]))


def test_what_is_no_graph_is_said_to_be_none():
    with pytest.raises(DamagedFileError, match="not a valid ONNX graph"):
        check_self_contained(b"\xff\xff location")
