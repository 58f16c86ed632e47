import threading
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from deploy.serving.batching import Batcher
from tasks.errors import RequestError


class Model:
    """Answers each image with its first value; waits at a gate, so that requests pile up behind it."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[tuple[int, ...]] = []

    def infer(self, images: np.ndarray) -> Any:
        self.entered.release()
        self.gate.wait(10)
        self.batches.append(images.shape)
        return [int(image.flat[0]) for image in images]


@pytest.fixture
def model():
    return Model()


def images(count: int, value: int, side: int = 4) -> np.ndarray:
    return np.full((count, side, side, 3), value, np.uint8)


def results(futures: list[Future[Any]]) -> list[Any]:
    return [future.result(10) for future in futures]


def pile_up(model: Model, batcher: Batcher, *waiting: np.ndarray) -> list[Future[Any]]:
    """Submits one request that occupies the worker, then the others, then opens the gate."""
    first = batcher.submit(images(1, 0))
    model.entered.acquire()
    futures = [first, *(batcher.submit(each) for each in waiting)]
    model.gate.set()
    return futures


def test_waiting_requests_of_one_size_are_answered_together_each_with_its_own(model):
    batcher = Batcher(model.infer, workers=1)
    answers = pile_up(model, batcher, images(1, 7), images(2, 8), images(1, 9))
    assert results(answers) == [[0], [7], [8, 8], [9]]
    assert model.batches == [(1, 4, 4, 3), (4, 4, 4, 3)]
    batcher.close()


def test_requests_of_other_sizes_wait_their_turn(model):
    batcher = Batcher(model.infer, workers=1)
    pile = (images(1, 1, side=5), images(1, 2, side=6), images(1, 3, side=5))
    assert results(pile_up(model, batcher, *pile)) == [[0], [1], [2], [3]]
    assert [shape[:2] for shape in model.batches] == [(1, 4), (2, 5), (1, 6)]
    batcher.close()


def test_a_batch_has_a_bound_that_one_larger_request_may_pass(model):
    batcher = Batcher(model.infer, workers=1, max_batch=lambda: 2)
    pile = [images(1, value) for value in (1, 2, 3)] + [images(5, 4)]
    assert results(pile_up(model, batcher, *pile)) == [[0], [1], [2], [3], [4] * 5]
    assert [shape[0] for shape in model.batches] == [1, 2, 1, 5]
    batcher.close()


def test_a_full_queue_refuses_with_503_and_goes_on(model):
    batcher = Batcher(model.infer, workers=1, max_waiting=2)
    first = batcher.submit(images(1, 0))
    model.entered.acquire()
    second = batcher.submit(images(2, 1))
    with pytest.raises(RequestError, match="2 images wait already") as caught:
        batcher.submit(images(1, 2))
    assert caught.value.http_status == 503
    model.gate.set()
    assert results([first, second]) == [[0], [1, 1]]
    assert batcher.waiting == 0
    batcher.close()


def test_a_cancelled_request_costs_no_inference(model):
    batcher = Batcher(model.infer, workers=1)
    batcher.submit(images(1, 0))
    model.entered.acquire()
    gone = batcher.submit(images(1, 1, side=9))
    assert gone.cancel()
    last = batcher.submit(images(1, 2))
    model.gate.set()
    assert results([last]) == [[2]]
    assert all(shape[1] != 9 for shape in model.batches)
    batcher.close()


def test_an_error_reaches_its_askers_and_the_worker_lives_on():
    def infer(images: np.ndarray) -> Any:
        if images.flat[0] == 13:
            raise ValueError("thirteen")
        return [1] * len(images)

    batcher = Batcher(infer, workers=1)
    with pytest.raises(ValueError, match="thirteen"):
        batcher.submit(images(1, 13)).result(10)
    assert batcher.submit(images(1, 1)).result(10) == [1]
    batcher.close()


def test_closing_answers_what_waits_and_takes_no_more(model):
    batcher = Batcher(model.infer, workers=1)
    futures = pile_up(model, batcher, images(1, 1), images(1, 2))
    batcher.close()
    assert results(futures) == [[0], [1], [2]]
    with pytest.raises(RequestError, match="stopping"):
        batcher.submit(images(1, 1))
