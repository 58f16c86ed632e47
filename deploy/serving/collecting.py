"""`--collect`: keeps a share of the images that are asked about, as what to label next.

    inbox/<name>/<sha256>.<suffix>            the image as sent to /classify, a tensor of v2 as PNG; or the text
    inbox/<name>.answers/<sha256>.json        what was answered, and when

The images are chosen by their digest, so an image is kept once however often it is sent, and several servers choose the
same. A request is never slowed or failed by it: it puts its images into a short queue, or drops them where that is
full; one thread does the rest. What can't be written is dropped with a warning. Images older than `days` are removed.
"""

from __future__ import annotations

import hashlib
import io
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from PIL import Image

from deploy.serving.limits import CollectLimits
from deploy.serving.metrics import Metrics
from deploy.serving.model import Answer
from tasks.errors import UsageError, WorkspaceError
from tasks.workspace import Workspace

log = logging.getLogger(__name__)

SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
SUFFIXES |= {"PPM": "ppm", "AVIF": "avif", "HEIF": "heic", "TEXT": "txt"}
KEPT = re.compile(r"(?P<sha256>[0-9a-f]{64})\.[a-z]{3,4}")
TOP_CLASSES = 5
TIDY_S = 3600.0
WARN_S = 60.0  # between two warnings
CLOSE_S = 5.0


@dataclass(frozen=True, eq=False)
class _Offered:
    """The images of one request, with their answers."""

    images: Sequence[bytes] | np.ndarray  # encoded as sent, or uint8 [N, H, W, 3]
    suffix: str
    answers: Sequence[Answer]
    when: datetime

    @property
    def size_bytes(self) -> int:
        return self.images.nbytes if isinstance(self.images, np.ndarray) else sum(map(len, self.images))


class Collector:
    """Keeps a share of the images in the workspace. `offer` may be called from the event loop."""

    def __init__(
        self,
        workspace: Workspace,
        name: str,
        share: float,
        metrics: Metrics,
        limits: CollectLimits | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """
        Args:
            share: of the images, 0 to 1.

        Raises:
            UsageError: the workspace can't be written.
        """
        self.share = share
        self.limits = limits or CollectLimits()
        self._workspace = workspace
        self._folder, self._answers = f"inbox/{name}", f"inbox/{name}.answers"
        self._metrics = metrics
        self._now = now
        self._queue: queue.SimpleQueue[_Offered | None] = queue.SimpleQueue()
        self._counts = threading.Lock()
        self._waiting = self._waiting_bytes = 0
        self._kept: dict[str, int] = {}  # bytes by digest
        self._warned = -WARN_S
        self._check()
        self._tidy()
        self._worker = threading.Thread(target=self._work, name="collect", daemon=True)
        self._worker.start()

    def offer(
        self, images: Sequence[bytes] | np.ndarray, answers: Sequence[Answer], format: str | None = "PNG"
    ) -> None:
        """Lets the images of a request be kept, those whose digest is among the share; never waits and never raises.

        Args:
            images: the encoded images as sent, or their pixels uint8 [N, H, W, 3].
            format: of encoded images, as Pillow names it.
        """
        offered = _Offered(images, SUFFIXES.get(format or "", "jpg"), answers, self._now())
        with self._counts:
            fits = self._waiting < self.limits.max_waiting
            if fits and self._waiting_bytes + offered.size_bytes <= self.limits.max_waiting_bytes:
                self._waiting += 1
                self._waiting_bytes += offered.size_bytes
                self._queue.put(offered)
                return
        self._metrics.collected.labels("dropped, busy").inc(len(answers))

    def close(self) -> None:
        """Keeps what waits, for some seconds at most."""
        self._queue.put(None)
        self._worker.join(CLOSE_S)

    def _check(self) -> None:
        try:
            Workspace(self._workspace.display(self._folder)).check_writable()
        except (WorkspaceError, OSError) as exc:
            raise UsageError(
                f"--collect keeps images in {self._workspace.display(self._folder)}, which can't be written: "
                f"{exc.__cause__ or exc}; give a workspace that can, or leave --collect away"
            ) from exc

    def _work(self) -> None:
        tidied = time.monotonic()
        while True:
            try:
                offered = self._queue.get(timeout=TIDY_S)
                if offered is None:
                    return
                self._attempt(self._keep, offered)
                with self._counts:
                    self._waiting -= 1
                    self._waiting_bytes -= offered.size_bytes
            except queue.Empty:
                pass
            if time.monotonic() - tidied >= TIDY_S:
                self._attempt(self._tidy)
                tidied = time.monotonic()

    def _attempt(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except Exception as exc:  # noqa: BLE001 - the thread outlives every image; serving goes on
            self._metrics.collected.labels("dropped, not written").inc()
            self._warn("can't keep an image for --collect: %s", exc)

    def _keep(self, offered: _Offered) -> None:
        for image, answer in zip(offered.images, offered.answers, strict=True):
            self._consider(image, answer, offered)

    def _consider(self, image: bytes | np.ndarray, answer: Answer, offered: _Offered) -> None:
        if not is_chosen(_digest(image), self.share):
            return
        content = image if isinstance(image, bytes) else _png(image)
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 in self._kept:
            return
        kept_bytes = sum(self._kept.values()) + len(content)
        if len(self._kept) >= self.limits.max_images or kept_bytes > 1e6 * self.limits.max_mb:
            self._metrics.collected.labels("dropped, full").inc()
            self._warn("%s is full: no more images are kept for --collect until older ones are removed", self._folder)
            return
        # The answer first: an image without one would be kept for good by a server that was killed between the two.
        self._workspace.write_json(f"{self._answers}/{sha256}.json", _described(sha256, answer, offered.when))
        self._workspace.write_bytes(f"{self._folder}/{sha256}.{offered.suffix}", content)
        self._kept[sha256] = len(content)
        self._metrics.collected.labels("kept").inc()
        self._metrics.collected_bytes.inc(len(content))

    def _tidy(self) -> None:
        """Removes images that are too old, with their answers, and counts the others; a person's own files stay."""
        oldest = self._now() - timedelta(days=self.limits.days)
        kept: dict[str, int] = {}
        for folder in (self._answers, self._folder):
            for file in self._workspace.files(folder):
                match = KEPT.fullmatch(file.name)
                if match and file.modified < oldest:
                    self._workspace.remove(file.path)
                elif match and folder == self._folder:
                    kept[match["sha256"]] = file.size_bytes
        self._kept = kept

    def _warn(self, message: str, detail: Any) -> None:
        if time.monotonic() - self._warned >= WARN_S:
            self._warned = time.monotonic()
            log.warning(message, detail)


def parse_share(text: str) -> float:
    """A share such as '1%', '0.5 %' or '0.01'. Raises UsageError."""
    number = text.strip()
    try:
        share = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise UsageError(f"--collect takes a share of the images, above 0 and at most 100%, such as 1%; found {text!r}")
    return share


def is_chosen(sha256: str, share: float) -> bool:
    """Whether an image is among the share: its digest's first 64 bits, as a number in [0, 1), are below it."""
    return int(sha256[:16], 16) / 2**64 < share


def _digest(image: bytes | np.ndarray) -> str:
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _described(sha256: str, answer: Answer, when: datetime) -> dict[str, Any]:
    order = np.argsort(-answer.probabilities, kind="stable")[:TOP_CLASSES]
    return {
        "sha256": sha256,
        "when": when.isoformat(timespec="seconds"),
        "model": answer.model.name,
        "version": answer.model.version,
        "label": answer.label,
        "familiarity": None if answer.familiarity is None else round(answer.familiarity, 6),
        "probabilities": {answer.model.labels[i]: round(float(answer.probabilities[i]), 6) for i in order},
    }
