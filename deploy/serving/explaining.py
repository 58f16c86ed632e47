"""Why an answer is as it is: one explanation at a time, so that answers keep the machine.

What it takes is loaded when a version is first asked about, and replaced when another is. It is about as much memory as
the model takes: a second session, which gives what lies inside the graph, too.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.serving import schemas
from deploy.serving.limits import Limits
from deploy.serving.model import ServedModel
from deploy.serving.model_slot import ModelSlot
from tasks.errors import DecodeError, HeadstartError, RequestError, WorkspaceError
from tasks.modality.images.heat_picture import heat_picture
from tasks.modality.texts.content import decode_text, tidy
from tasks.pool.attribution import Attribution, ImageAttributor, TextAttributor
from tasks.pool.cut import CutModel, cut_model
from tasks.report.thumbnails import data_uri, preview
from tasks.storage.repository import MODEL, TOKENIZER

if TYPE_CHECKING:
    from tasks.pool.training import TrainingIndex

log = logging.getLogger(__name__)

NEAR_PX = 220  # a third of the page's width, on a screen with two pixels to the point
INDEXED = 20_000  # training items at most, at random: 50 MB of 1,280 features each
NOT_SHOWN = (
    "The training {items} are not shown, since other machines can ask this server; "
    "start it with --show-training if they may see them."
)
ALONE = "The training {items} are not known here: this server can read the published model alone."
NO_ROWS = "The features of the training {items} are not stored for this version; `headstart explain` stores them."


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """What explains the answers of one version; `index` or why there is none."""

    model: ServedModel
    attribute: Callable[[Any], Attribution]
    index: TrainingIndex | None = None
    missing: str | None = None


@dataclass(kw_only=True)
class Explainer:
    """Explains answers of the version that is in service."""

    slot: ModelSlot
    limits: Limits
    shows_training: bool
    """Whether who asks may see the training items that an explanation names."""
    _turn: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _thread: ThreadPoolExecutor = field(
        init=False, default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="explain")
    )
    _loaded: _Loaded | None = field(init=False, default=None)  # of the thread

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits until no other explanation is under way. Raises RequestError (503) where that takes too long."""
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                await self._turn.acquire()
        except TimeoutError:
            raise RequestError(503, f"other explanations were under way for {self.limits.timeout_s:g} s") from None
        try:
            yield
        finally:
            self._turn.release()

    async def image(self, model: ServedModel, content: bytes, pixels: np.ndarray) -> schemas.Explanation:
        """Explains the answer to a photograph.

        Args:
            content: its file; a training photograph with its digest is the same one, and no neighbour of it.
            pixels: uint8 [H, W, 3].

        Raises:
            RequestError: 404 the model can't be explained; 503 its files can't be read, or it took too long.
        """
        return await self._within_time(lambda: self._image(model, content, pixels))

    async def text(self, model: ServedModel, text: str) -> schemas.Explanation:
        """Explains the answer to a text. Raises RequestError: as `image`, and 400 for one that can't be used."""
        try:
            wanted = tidy(decode_text(text.encode()))
        except (DecodeError, UnicodeEncodeError) as exc:
            raise RequestError(400, f"the text can't be used: {exc}") from None
        return await self._within_time(lambda: self._text(model, wanted))

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _within_time(self, work: Callable[[], schemas.Explanation]) -> schemas.Explanation:
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except TimeoutError:  # what was being loaded is there the next time
            reason = f"there was no explanation within {self.limits.timeout_s:g} s; ask again in a moment"
            raise RequestError(503, reason) from None

    def _image(self, model: ServedModel, content: bytes, pixels: np.ndarray) -> schemas.Explanation:
        loaded = self._loaded_of(model)
        found = loaded.attribute(pixels)
        height, width = pixels.shape[:2]
        heat = None if found.heat is None else found.heat.round(4).tolist()
        picture = None if found.heat is None else data_uri(heat_picture(found.heat, width, height), "image/png")
        size = schemas.ImageSize(width_px=width, height_px=height)
        return _explanation(loaded, found, content, image=size, heat=heat, heat_map=picture)

    def _text(self, model: ServedModel, text: str) -> schemas.Explanation:
        loaded = self._loaded_of(model)
        found = loaded.attribute(text)
        words = [schemas.WordWeight(word=word, weight=round(weight, 4)) for word, weight in found.words]
        return _explanation(loaded, found, text.encode(), words=words)

    def _loaded_of(self, model: ServedModel) -> _Loaded:
        """What explains this version, loaded where it is another than the last."""
        if self._loaded is None or self._loaded.model is not model:
            self._loaded = None  # its memory first
            self._loaded = self._load(model)
        return self._loaded

    def _load(self, model: ServedModel) -> _Loaded:
        try:
            files = self.slot.files_of(model)
        except (WorkspaceError, OSError) as exc:
            log.error("can't explain answers of %s version %d: %s", model.name, model.version, exc)
            raise RequestError(503, f"the files of version {model.version} can't be read again") from None
        try:
            cut = cut_model(files[MODEL], model.manifest, files.get(TOKENIZER))
            uris, index, missing = self._training(cut)
            attribute = TextAttributor(cut, 1) if cut.tokens else ImageAttributor(cut, uris, self.limits.max_pixels)
        except HeadstartError as exc:
            raise RequestError(404, f"answers of version {model.version} can't be explained: {exc}") from None
        return _Loaded(model=model, attribute=attribute, index=index, missing=missing)

    def _training(self, cut: CutModel) -> tuple[list[str], TrainingIndex | None, str | None]:
        """The URIs of training items, those among which similar ones are found, and why there are none."""
        items = "texts" if cut.task == "text" else "photographs"
        try:
            from tasks.pool.training import index_training, training_items  # the serving image has no Parquet

            training = training_items(self.slot.workspace, cut)
        except (ImportError, HeadstartError, OSError) as exc:
            log.info("explanations of %s show no training %s: %s", cut.name, items, exc)
            return [], None, ALONE.format(items=items)
        uris = training["uri"].tolist()
        if not self.shows_training:
            return uris, None, NOT_SHOWN.format(items=items)
        try:
            return uris, index_training(self.slot.workspace, cut, training, INDEXED), None
        except (HeadstartError, OSError) as exc:
            log.info("explanations of %s show no training %s: %s", cut.name, items, exc)
            return uris, None, NO_ROWS.format(items=items)


def _explanation(loaded: _Loaded, found: Attribution, content: bytes, **shown: Any) -> schemas.Explanation:
    best = int(found.probabilities.argmax())
    return schemas.Explanation(
        model=loaded.model.name,
        version=loaded.model.version,
        label=loaded.model.labels[best],
        probability=found.probabilities[best],
        nearest=_nearest(loaded.index, content, found.row) if loaded.index else [],
        nearest_missing=loaded.missing,
        **shown,
    )


def _nearest(index: TrainingIndex, content: bytes, row: np.ndarray) -> list[schemas.SimilarItem]:
    near = index.nearest(hashlib.sha256(content).hexdigest(), row)
    return [
        # The digest: what lies at the address by now may be another file, which nobody meant to show.
        schemas.SimilarItem(label=label, **preview(uri, NEAR_PX, sha256))
        for sha256, uri, label in near[["sha256", "uri", "label"]].itertuples(index=False)
    ]
