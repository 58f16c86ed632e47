"""Extraction makes what is missing, no less and no more; what was damaged is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.artifacts import Run, SnapshotRef, TrunkRef
from tasks.augment.policy import Policy, load_policy
from tasks.backbones.trunk import trunk_of
from tasks.extract import plan
from tasks.extract.engine import choose_engine
from tasks.extract.export import ensure_exported
from tasks.extract.plan import cut, embed_shard, missing_tasks
from tasks.features import feature_store, load_features
from tasks.ingest.catalogue import build_catalogue
from tasks.split.assign import make_snapshot
from tests import photos
from tests.runs import make_run


@pytest.fixture
def stage(tmp_path: Path, small_trunk: dict[str, object]) -> tuple[Run, SnapshotRef, TrunkRef, Policy]:
    source = photos.class_folders(tmp_path / "photos", {"red": 12, "green": 12})
    run = make_run(tmp_path / "w", source, config={"backbone": small_trunk, "extract": {"shard_images": 5}})
    policy = load_policy("flip", 1)
    trunk = trunk_of(run, policy)
    ensure_exported(run, trunk)
    return run, make_snapshot(run, build_catalogue(run)), trunk, policy


def extract(run: Run, snapshot: SnapshotRef, trunk: TrunkRef, policy: Policy) -> int:
    """The stage without Prefect; the images that it embedded."""
    shards = cut(missing_tasks(run, snapshot, trunk, policy), run.config.extract.shard_images)
    return sum(embed_shard(run, trunk, policy, choose_engine(run, trunk), shard) for shard in shards)


def test_a_damaged_part_is_made_again_and_nothing_else(stage):
    run, snapshot, trunk, _ = stage
    assert extract(*stage) == snapshot.images
    assert missing_tasks(*stage) == []

    store = feature_store(run.workspace, trunk.recipe)
    part = store.parts()[1]
    held = [(row["sha256"], row["view"]) for table in store.read_part(part) for row in table.to_pylist()]
    sha256s = sorted({sha256 for sha256, _ in held})
    sound = load_features(run.workspace, trunk.recipe, sha256s, 0)
    path = Path(run.workspace.path(part))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    assert {(task.sha256, view) for task in missing_tasks(*stage) for view in task.views} == set(held)
    assert not path.exists()
    assert extract(*stage) == len(sha256s)
    assert missing_tasks(*stage) == []
    assert (load_features(run.workspace, trunk.recipe, sha256s, 0) == sound).all()


def test_a_run_that_died_between_two_shards_goes_on_where_it_was(stage):
    run, _, trunk, policy = stage
    shards = cut(missing_tasks(*stage), run.config.extract.shard_images)
    done = sum(embed_shard(run, trunk, policy, choose_engine(run, trunk), shard) for shard in shards[:2])
    assert extract(*stage) == sum(map(len, shards)) - done


def test_a_shard_of_many_bytes_becomes_several_parts(stage, monkeypatch):
    run, _, trunk, policy = stage
    monkeypatch.setattr(plan, "PART_BYTES", 3 * 1280 * 2)
    [shard] = cut(missing_tasks(*stage), 100)
    embed_shard(run, trunk, policy, choose_engine(run, trunk), shard)
    assert len(feature_store(run.workspace, trunk.recipe).parts()) > 5
    assert missing_tasks(*stage) == []
