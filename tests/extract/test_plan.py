"""Extraction makes what is missing, no less and no more; what was damaged is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.extract import plan
from tasks.extract.engine import choose_engine
from tasks.extract.narrow import copy_columns
from tasks.extract.plan import cut, embed_shard, missing_tasks
from tasks.ingest.catalogue import build_catalogue
from tasks.modality.images.augmentation import Policy, load_policy
from tasks.records import FeatureExtractor, Run, Snapshot
from tasks.split.assign import make_snapshot
from tasks.storage.feature_store import feature_store, load_features
from tasks.storage.snapshots import read_snapshot
from tests import photos
from tests.extractors import exported
from tests.runs import make_run


@pytest.fixture
def stage(tmp_path: Path, small_extractor: dict[str, object]) -> tuple[Run, Snapshot, FeatureExtractor, Policy]:
    source = photos.class_folders(tmp_path / "photos", {"red": 12, "green": 12})
    run = make_run(tmp_path / "w", source, config={"backbone": small_extractor, "extract": {"shard_images": 5}})
    policy = load_policy("flip", 1)
    extractor = exported(run, policy)
    return run, make_snapshot(run, build_catalogue(run)), extractor, policy


def extract(run: Run, snapshot: Snapshot, extractor: FeatureExtractor, policy: Policy) -> int:
    """The stage without Prefect; the images that it embedded."""
    shards = cut(missing_tasks(run, snapshot, extractor, policy), run.config.extract.shard_images)
    return sum(embed_shard(run, extractor, policy, choose_engine(run, extractor), shard) for shard in shards)


def test_a_damaged_part_is_made_again_and_nothing_else(stage):
    run, snapshot, extractor, _ = stage
    assert extract(*stage) == snapshot.images
    assert missing_tasks(*stage) == []

    store = feature_store(run.workspace, extractor.key)
    part = store.parts()[1]
    held = [(row["sha256"], row["view"]) for table in store.read_part(part) for row in table.to_pylist()]
    sha256s = sorted({sha256 for sha256, _ in held})
    sound = load_features(run.workspace, extractor.key, sha256s, 0)
    path = Path(run.workspace.path(part))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    assert {(task.sha256, view) for task in missing_tasks(*stage) for view in task.views} == set(held)
    assert not path.exists()
    assert extract(*stage) == len(sha256s)
    assert missing_tasks(*stage) == []
    assert (load_features(run.workspace, extractor.key, sha256s, 0) == sound).all()


def test_a_run_that_died_between_two_shards_goes_on_where_it_was(stage):
    run, _, extractor, policy = stage
    shards = cut(missing_tasks(*stage), run.config.extract.shard_images)
    done = sum(embed_shard(run, extractor, policy, choose_engine(run, extractor), shard) for shard in shards[:2])
    assert extract(*stage) == sum(map(len, shards)) - done


def test_a_shard_of_many_bytes_becomes_several_parts(stage, monkeypatch):
    run, _, extractor, policy = stage
    monkeypatch.setattr(plan, "PART_BYTES", 3 * 1280 * 2)
    [shard] = cut(missing_tasks(*stage), 100)
    embed_shard(run, extractor, policy, choose_engine(run, extractor), shard)
    assert len(feature_store(run.workspace, extractor.key).parts()) > 5
    assert missing_tasks(*stage) == []


@pytest.mark.parametrize("fewer", [2, "last"])
def test_rows_of_fewer_layers_are_copied_from_those_of_more_and_are_what_a_pass_gives(
    tmp_path: Path, small_extractor: dict[str, object], fewer: int | str
):
    source, policy = photos.class_folders(tmp_path / "photos", {"red": 3, "green": 3}), load_policy("flip", 0)
    runs = [
        make_run(tmp_path / place, source, config={"backbone": small_extractor}) for place in ("copied", "embedded")
    ]
    narrow_runs = [replace(run, config=run.config.with_keys({"backbone.features": fewer})) for run in runs]
    snapshot, other = (make_snapshot(run, build_catalogue(run)) for run in runs)
    wide, narrow = exported(runs[0], policy), exported(narrow_runs[0], policy)
    assert extract(runs[0], snapshot, wide, policy) == 6
    copy_columns(runs[0], snapshot, wide, narrow)
    assert missing_tasks(narrow_runs[0], snapshot, narrow, policy) == []
    assert extract(narrow_runs[1], other, exported(narrow_runs[1], policy), policy) == 6
    sha256s = read_snapshot(runs[0].workspace, snapshot.id)["sha256"].tolist()
    copied, embedded = (load_features(run.workspace, narrow.key, sha256s, 0) for run in runs)
    assert copied.shape == (6, sum(narrow.widths))
    np.testing.assert_allclose(copied, embedded, atol=2e-3)

    eight_bits = replace(wide, precision="int8"), replace(narrow, key="0" * 16, precision="int8")
    copy_columns(runs[0], snapshot, *eight_bits)
    assert len(missing_tasks(runs[0], snapshot, eight_bits[1], policy)) == 6
