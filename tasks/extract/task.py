"""The feature extraction stage as Prefect tasks: one for the plan, one for each shard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from tasks.display import Progress
from tasks.extract import plan
from tasks.extract.engine import Engine, Task, choose_engine
from tasks.extract.export import ensure_exported
from tasks.extract.narrow import copy_columns
from tasks.extract.quantise import quantised
from tasks.modality.images.augmentation import Policy
from tasks.modality.kinds import kind_of
from tasks.networks.extractor import extractor_of
from tasks.orchestration import count_embedded, mapping, page_progress, stage
from tasks.records import FeatureExtractor, Features, Run, Snapshot

_engines: dict[tuple[str, FeatureExtractor, str], Engine] = {}  # at most one: the last of this process
_choosing = threading.Lock()


@stage("extractor")
def make_extractor(run: Run, snapshot: Snapshot, policy: Policy) -> FeatureExtractor:
    """Exports the feature extractor (and quantises it on request), unless the workspace has it already."""
    extractor = ensure_exported(run, extractor_of(run, policy))
    return quantised(run, extractor, snapshot) if run.config.backbone.precision == "int8" else extractor


@stage("extract")
def extract_features(run: Run, snapshot: Snapshot, extractor: FeatureExtractor, policy: Policy) -> Features:
    """Embeds the images of a snapshot that have missing rows, shard by shard."""
    todo = plan.missing_tasks(run, snapshot, extractor, policy)
    shards = plan.cut(todo, run.config.extract.shard_images)
    show = page_progress(run.name, "extract") if len(shards) > 1 else None
    items, done = kind_of(run.config).items, 0
    with Progress("extract", len(todo), items) as progress, mapping(run.config.scale, len(shards)) as mapper:
        common = (run, extractor, policy) if mapper.local else (_one_thread(run), extractor, policy)
        on_image = progress.advance if mapper.local else None
        for images in mapper(embed_shard, [(*common, shard, on_image) for shard in shards]):
            done += images
            if on_image is None:
                progress.advance(images)
            if show:
                show(done / len(todo))
    count_embedded(len(todo))
    return Features(snapshot=snapshot, extractor=extractor, views=policy.views, embedded=len(todo))


@stage("copy-features")
def copy_features(run: Run, snapshot: Snapshot, wide: FeatureExtractor, narrow: FeatureExtractor) -> None:
    """Copies missing rows of fewer layers from rows of more (`--auto`)."""
    copy_columns(run, snapshot, wide, narrow)


@stage("extract-shard")
def embed_shard(
    run: Run,
    extractor: FeatureExtractor,
    policy: Policy,
    shard: Sequence[Task],
    on_image: Callable[[], None] | None = None,
) -> int:
    """Embeds one shard; retried separately. Returns the number of images."""
    return plan.embed_shard(run, extractor, policy, _engine(run, extractor), shard, on_image or (lambda: None))


def _engine(run: Run, extractor: FeatureExtractor) -> Engine:
    """The engine of this process (or Dask worker) for the feature extractor, made for the first shard."""
    key = (run.workspace.url, extractor, run.config.extract.engine)
    with _choosing:
        if key not in _engines:
            _engines.clear()
            _engines[key] = choose_engine(run, extractor)
        return _engines[key]


def _one_thread(run: Run) -> Run:
    """The run for a Dask worker, which already embeds a shard on each of its threads."""
    extract = run.config.extract.model_copy(update={"workers": 1})
    return replace(run, config=run.config.model_copy(update={"extract": extract}))
