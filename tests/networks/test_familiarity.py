"""Familiarity: the graph says what the formula says, known images are familiar as often as asked, and strangers not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tasks.networks.familiarity import Basis, Familiarity, attach, fit_basis
from tasks.networks.onnx_session import open_session
from tasks.networks.outputs import FAMILIARITY, THRESHOLD
from tasks.networks.unknown_classes import leave_classes_out

CLASSES, WIDTHS = 4, (40, 24)
CENTRES = np.random.default_rng(1).normal(
    0, 1.5, (CLASSES + 1, sum(WIDTHS))
)  # the last is of a class that nobody knows


def images(count: int, seed: int, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Features float16 [N, D] and targets of images of each class in turn."""
    targets = np.arange(count) % classes
    rows = CENTRES[targets] + np.random.default_rng(seed).normal(0, 1, (count, sum(WIDTHS)))
    return rows.astype(np.float16), targets


def logits(rows: np.ndarray) -> np.ndarray:
    return (rows.astype(np.float32) @ CENTRES[:CLASSES].T).astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> Familiarity:
    rows, targets = images(400, 0)
    held_out, _ = images(200, 1)
    return fit_basis(rows, targets, held_out, WIDTHS).with_logits(logits(held_out), 0.95)


def graph_of(source: str, shape: list[int | str]) -> onnx.ModelProto:
    """A graph whose inputs are what familiarity is made of."""
    wanted = [(source, shape), ("logits", ["N", CLASSES])]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in wanted]
    graph = helper.make_graph([], "graph", inputs, [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_the_graph_gives_what_the_formula_gives(fitted: Familiarity):
    rows, _ = images(50, 2)
    model = attach(graph_of("features", ["N", sum(WIDTHS)]), fitted, "features")
    session = open_session(model.SerializeToString())
    feeds = {"features": rows.astype(np.float32), "logits": logits(rows)}
    [found] = session.run([FAMILIARITY], feeds)
    np.testing.assert_allclose(np.asarray(found), fitted.of(rows, logits(rows)), atol=2e-3)  # axes ship as float16
    [alone] = session.run([FAMILIARITY], {name: values[:1] for name, values in feeds.items()})
    np.testing.assert_allclose(np.asarray(alone), np.asarray(found)[:1], atol=1e-5)


def test_of_activations_the_mean_over_space_is_what_counts(fitted: Familiarity):
    rows, _ = images(20, 3)
    model = attach(graph_of("activations", ["N", 2, 3, sum(WIDTHS)]), fitted, "activations")
    spread = np.linspace(0.5, 1.5, 6, dtype=np.float32).reshape(2, 3, 1)  # of mean 1
    maps = rows.astype(np.float32)[:, None, None] * spread
    [found] = open_session(model.SerializeToString()).run([FAMILIARITY], {"activations": maps, "logits": logits(rows)})
    np.testing.assert_allclose(np.asarray(found), fitted.of(rows, logits(rows)), atol=2e-3)


@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_as_many_held_out_images_are_familiar_as_asked(coverage: float):
    rows, targets = images(400, 0)
    held_out, _ = images(200, 1)
    fitted = fit_basis(rows, targets, held_out, WIDTHS).with_logits(logits(held_out), coverage)
    assert (fitted.of(held_out, logits(held_out)) >= THRESHOLD).mean() == pytest.approx(coverage, abs=0.01)
    unseen, _ = images(1000, 7)
    assert (fitted.of(unseen, logits(unseen)) >= THRESHOLD).mean() == pytest.approx(coverage, abs=0.05)


def test_a_basis_is_the_same_after_it_was_kept():
    rows, targets = images(100, 0)
    basis = fit_basis(rows, targets, images(50, 1)[0], WIDTHS)
    again = Basis.load(basis.save())
    for kept, made in zip((again.space, again.distances, again), (basis.space, basis.distances, basis), strict=True):
        arrays = {name: value for name, value in vars(made).items() if isinstance(value, np.ndarray)}
        assert arrays
        for name, value in arrays.items():
            assert vars(kept)[name].dtype == value.dtype
            np.testing.assert_array_equal(vars(kept)[name], value)


def test_strangers_are_not_familiar(fitted: Familiarity):
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 4, (100, sum(WIDTHS))).astype(np.float16)
    assert (fitted.of(noise, logits(noise) * 0.1) < THRESHOLD).mean() > 0.95
    unknown = (CENTRES[CLASSES] + rng.normal(0, 1, (100, sum(WIDTHS)))).astype(np.float16)
    assert (fitted.of(unknown, logits(unknown)) < THRESHOLD).mean() > 0.9


def test_the_same_data_give_the_same_numbers_and_a_few_images_are_enough(fitted: Familiarity):
    rows, targets = images(400, 0)
    held_out, _ = images(200, 1)
    again = fit_basis(rows, targets, held_out, WIDTHS).with_logits(logits(held_out), 0.95)
    assert again.weights == fitted.weights
    assert np.array_equal(again.space.axes, fitted.space.axes)
    few, of = images(8, 5)
    one = fit_basis(few, of, few[:1]).with_logits(logits(few[:1]), 0.95)
    assert np.isfinite(one.of(few, logits(few))).all()
    assert one.of(few[:1], logits(few[:1]))[0] == pytest.approx(THRESHOLD, abs=0.01)  # the least familiar of one
    constant = fit_basis(np.ones((8, 6), np.float16), of, np.ones((2, 6))).with_logits(np.ones((2, 4)), 0.95)
    assert np.isfinite(constant.of(np.zeros((1, 6)), np.ones((1, 4)))).all()


def test_a_class_that_was_left_out_is_told_and_one_that_looks_like_the_others_is_not():
    rows, targets = images(200, 0)
    held_out, of = images(100, 1)
    told = leave_classes_out(rows, targets, held_out, of, ("a", "b", "c", "d"), WIDTHS)
    assert told is not None
    assert told.auroc > 0.95
    assert told.interval[0] <= told.auroc <= told.interval[1]
    assert (set(told.classes), told.images) == ({"a", "b", "c", "d"}, 300)
    shuffled = np.random.default_rng(6).permutation(targets)
    alike = leave_classes_out(rows, shuffled, held_out, np.random.default_rng(8).permutation(of), "abcd", WIDTHS)
    assert alike is not None
    assert alike.auroc == pytest.approx(0.5, abs=0.1)


def test_two_classes_or_too_few_images_say_nothing():
    rows, targets = images(100, 0)
    held_out, of = images(50, 1)
    assert leave_classes_out(rows, targets % 2, held_out, of % 2, ("a", "b"), WIDTHS) is None
    assert leave_classes_out(rows, targets, held_out[:4], of[:4], "abcd", WIDTHS) is None
