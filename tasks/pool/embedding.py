"""The pass of a pool through the feature extractor of a published model; rows are kept, so none is made twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.display import Progress
from tasks.errors import DecodeError, SourceChangedError
from tasks.extract.plan import DECODED_SCALE
from tasks.ingest.reading import Known, read_all, stored_inspections
from tasks.ingest.signatures import known_signatures
from tasks.modality.images.content import decode
from tasks.modality.items import read_checked
from tasks.modality.kinds import kind_of
from tasks.networks.onnx_session import available_cores, open_model
from tasks.networks.text_batches import run_texts
from tasks.pool.cut import CutModel
from tasks.pool.listing import list_pool
from tasks.records import Run
from tasks.storage.feature_store import append_rows, stored_views

PART_IMAGES = 1024  # between two writes of the store: what a kill costs


@dataclass(frozen=True, kw_only=True)
class SeenPool:
    """A pool whose images have rows in the feature store.

    `table` has a row for each usable file, sorted by path: `path`, `uri` and `sha256`. `faults` says of each other file
    why it is left out, `left_out` of what is no image why it is passed over; `embedded` images had no row before.
    """

    table: pd.DataFrame
    faults: dict[str, str]
    left_out: dict[str, str]
    embedded: int


def see_pool(run: Run, model: CutModel) -> SeenPool:
    """Lists the run's source, reads what changed since it was last read, and embeds what has no row yet.

    Raises:
        SourceError: see `list_pool`; or the storage does not answer.
    """
    listing = list_pool(run)
    inspected = set(stored_inspections(run.workspace, kind_of(run.config)).index)
    known = Known(inspected, known_signatures(run.workspace))
    with Progress("read", len(listing.entries), kind_of(run.config).items) as progress:
        reads = list(read_all(run, listing.entries, known, progress.report))
    sound = [read for read in reads if not read.fault]
    table = pd.DataFrame(
        [(read.entry.path, read.entry.uri, read.sha256) for read in sound], columns=["path", "uri", "sha256"]
    )
    bad, embedded = embed_missing(run, model, table)
    faults = {item.path: item.reason for item in listing.rejected}
    faults |= {read.entry.path: read.fault for read in reads if read.fault}
    lost = table["sha256"].isin(bad.keys())
    faults |= {path: bad[sha256] for path, sha256 in table.loc[lost, ["path", "sha256"]].itertuples(index=False)}
    return SeenPool(
        table=table[~lost].reset_index(drop=True),
        faults=dict(sorted(faults.items())),
        left_out=dict(listing.left_out),
        embedded=embedded,
    )


def embed_missing(run: Run, model: CutModel, table: pd.DataFrame) -> tuple[dict[str, str], int]:
    """Embeds the images that have no row yet, in parts that are kept at once.

    Args:
        table: the columns sha256 and uri.

    Returns:
        Why some images have no row, by their SHA-256; and how many were embedded.
    """
    images = table.drop_duplicates("sha256")
    stored = stored_views(run.workspace, model.key, images["sha256"].tolist(), 1)[:, 0]
    todo = list(images.loc[~stored, ["sha256", "uri"]].itertuples(index=False, name=None))
    faults: dict[str, str] = {}
    with Progress("embed", len(todo), kind_of(run.config).items) as progress:
        for part in _embedded(run, model, todo, progress.advance):
            faults |= {sha256: row for sha256, row in part if isinstance(row, str)}
            rows = [(sha256, row) for sha256, row in part if not isinstance(row, str)]
            if rows:
                sha256s = [sha256 for sha256, _ in rows]
                append_rows(run.workspace, model.key, sha256s, [0] * len(rows), np.stack([row for _, row in rows]))
    return faults, len(todo) - len(faults)


def _embedded_texts(
    run: Run, model: CutModel, texts: list[tuple[str, str]], on_text: Callable[[], None]
) -> Iterator[list[tuple[str, np.ndarray | str]]]:
    """As `_embedded`, of texts."""
    session, tokens = open_model(model.body) if texts else None, model.tokens
    assert tokens
    for start in range(0, len(texts), PART_IMAGES):
        read: dict[str, np.ndarray] = {}
        faults: dict[str, str] = {}
        for sha256, uri in texts[start : start + PART_IMAGES]:
            try:
                read[sha256] = tokens.read(read_checked(uri, sha256))
            except (DecodeError, SourceChangedError) as exc:
                faults[sha256] = str(exc)
        assert session
        rows = run_texts(session, [model.output], list(read.values()), run.config.extract.workers)
        for _ in read:
            on_text()
        made = {sha256: row.astype(np.float16) for sha256, [row] in zip(read, rows, strict=True)}
        yield [*made.items(), *faults.items()]


def _embedded(
    run: Run, model: CutModel, images: list[tuple[str, str]], on_image: Callable[[], None]
) -> Iterator[list[tuple[str, np.ndarray | str]]]:
    """(SHA-256, its row float16 [D] or what is wrong with it) of each image, part by part, on all threads."""
    bounds = run.config.ingest
    enough_px = DECODED_SCALE * model.image_size_px if model.image_size_px else None
    session = open_model(model.body) if images else None
    if model.tokens:
        yield from _embedded_texts(run, model, images, on_image)
        return

    def one(image: tuple[str, str]) -> tuple[str, np.ndarray | str]:
        sha256, uri = image
        try:
            pixels = decode(read_checked(uri, sha256), bounds.max_pixels, enough_px)
        except (DecodeError, SourceChangedError) as exc:
            return sha256, str(exc)
        assert session
        row = np.asarray(session.run([model.output], {"image": pixels[None]})[0]).reshape(-1).astype(np.float16)
        on_image()
        return sha256, row

    with ThreadPoolExecutor(run.config.extract.workers or available_cores(), thread_name_prefix="embed") as pool:
        for start in range(0, len(images), PART_IMAGES):
            yield list(pool.map(one, images[start : start + PART_IMAGES]))
