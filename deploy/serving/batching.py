"""Concurrent requests, answered together.

A worker takes the request that has waited longest and others of its image size, up to a bound: nothing waits
for a batch to fill, so an idle server answers at once, and a busy one finds its batches full by itself. The
images of one request stay together, so one version of the model answers them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from deploy.serving.model import Answer
from tasks.errors import RequestError
from tasks.networks.onnx_session import available_cores

Infer = Callable[[np.ndarray], Sequence[Answer]]


@dataclass(frozen=True, eq=False)
class _Waiting:
    images: np.ndarray  # uint8 [N, H, W, 3]
    answers: Future[list[Answer]]


class Batcher:
    """Threads that keep the model busy. `submit` may be called from any thread."""

    def __init__(
        self,
        infer: Infer,
        *,
        workers: int = 0,
        max_batch: Callable[[], int] = lambda: 8,
        max_waiting: int = 256,
        observe_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        """
        Args:
            infer: answers uint8 [N, H, W, 3] with N answers; called by several threads at once.
            workers: 0 takes one for each core.
            max_batch: asked for the bound of each batch, in images.
            observe_batch: told the size of each batch.
        """
        self._infer = infer
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._observe_batch = observe_batch
        self._queue: deque[_Waiting] = deque()
        self._waiting = 0  # images in the queue
        self._changed = threading.Condition()
        self._closed = False
        self._workers = [
            threading.Thread(target=self._work, name=f"infer-{index}", daemon=True)
            for index in range(workers or available_cores())
        ]
        for worker in self._workers:
            worker.start()

    @property
    def waiting(self) -> int:
        """Images that no worker has taken yet."""
        with self._changed:
            return self._waiting

    def submit(self, images: np.ndarray) -> Future[list[Answer]]:
        """Queues the images of one request, uint8 [N, H, W, 3].

        Raises:
            RequestError: 503, the queue is full or the server is stopping.
        """
        entry = _Waiting(images, Future())
        with self._changed:
            if self._closed:
                raise RequestError(503, "the server is stopping; ask another, or again in a moment")
            if self._waiting + len(images) > self._max_waiting:
                reason = f"{self._waiting} images wait already, of the {self._max_waiting} that may"
                raise RequestError(503, f"{reason}; ask again in a moment")
            self._queue.append(entry)
            self._waiting += len(images)
            self._changed.notify()
        return entry.answers

    def close(self) -> None:
        """Answers what waits, then ends the workers."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    def _work(self) -> None:
        while taken := self._take():
            # A client that went away, or whose time is up, has cancelled its future.
            batch = [entry for entry in taken if entry.answers.set_running_or_notify_cancel()]
            if batch:
                self._answer(batch)

    def _take(self) -> list[_Waiting]:
        """The longest waiting entry and others of its size; empty when closed and done."""
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            if not self._queue:
                return []
            first = self._queue.popleft()
            batch, size, bound = [first], len(first.images), self._max_batch()
            for entry in list(self._queue):
                if entry.images.shape[1:] == first.images.shape[1:] and size + len(entry.images) <= bound:
                    self._queue.remove(entry)
                    batch.append(entry)
                    size += len(entry.images)
            self._waiting -= size
        return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        images = batch[0].images if len(batch) == 1 else np.concatenate([entry.images for entry in batch])
        self._observe_batch(len(images))
        try:
            answers = iter(self._infer(images))
            results = [[next(answers) for _ in entry.images] for entry in batch]
        except Exception as exc:  # noqa: BLE001 - a worker outlives every request; each asker gets its error
            for entry in batch:
                entry.answers.set_exception(exc)
            return
        for entry, result in zip(batch, results, strict=True):
            entry.answers.set_result(result)
