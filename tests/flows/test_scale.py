"""Files inspected and shards embedded by Dask workers, the workspace on an object store: the same as here."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster
from fsspec.config import conf as fsspec_settings
from prefect import flow

from flows.preflight import check_run
from tasks.config import parse_config
from tasks.errors import ConfigError
from tasks.extract.task import extract_features, make_extractor
from tasks.ingest import reading
from tasks.ingest.task import ingest_images
from tasks.modality.images.augmentation import policy_of
from tasks.runs import new_run
from tasks.split.task import split_images
from tasks.storage.feature_store import feature_store, load_features
from tasks.storage.tables import read_table
from tasks.workspace import Workspace
from tests import photos
from tests.extractors import exported
from tests.object_store import ObjectStore, object_store
from tests.runs import make_run


@flow(name="embed")
def embed(source: Path, workspace: str, runner: str, address: str = "") -> tuple[Any, ...]:
    """What ingestion and extraction come to, in a workspace of its own for each `runner`."""
    return _embed(source, workspace, runner, address)  # the flow travels to the workers, by value


def _embed(source: Path, workspace: str, runner: str, address: str) -> tuple[Any, ...]:
    config = parse_config(
        {
            "backbone": {"name": "embedded", "image_size_px": 32},
            "extract": {"shard_images": 40},
            "augment": {"views": 1},
            "scale": {"runner": runner, "dask_address": address},
        }
    )
    run = new_run(str(source), runner, f"{workspace}/{runner}", config)
    policy = policy_of(config)
    exported(run, policy)
    found = ingest_images(run)
    snapshot = split_images(run, found)
    features = extract_features(run, snapshot, make_extractor(run, snapshot, policy), policy)
    sha256s = read_table(run.workspace, snapshot.table_path, ["sha256"])["sha256"].tolist()
    key = features.extractor.key
    rows = load_features(run.workspace, key, sha256s, 0)
    return snapshot.id, features.embedded, len(feature_store(run.workspace, key).parts()), found.quarantined, rows


@pytest.fixture
def s3() -> Iterator[ObjectStore]:
    with object_store(fsspec_settings) as store:
        yield store


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_api")
def test_the_rows_and_the_snapshot_are_those_of_one_machine(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = photos.class_folders(tmp_path / "photos", {"red": 50, "green": 50})
    (source / "red" / "broken.jpg").write_bytes(photos.truncated_jpeg())
    monkeypatch.setattr(reading, "CHUNK_FILES", 40)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environ.items():  # for the workers, which are processes of their own
            patch.setenv(name, value)
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:  # type: ignore
            *theirs, their_rows = embed(source, s3.workspace, "dask", cluster.scheduler_address)  # type: ignore
    *ours, our_rows = embed(source, s3.workspace, "threads")
    assert theirs == ours
    assert theirs[1:] == [100, 3, 1]  # images, parts, files in quarantine
    assert (their_rows == our_rows).all()


@pytest.mark.parametrize("address", ["nowhere", "tcp://127.0.0.1:9", "tcp://127.0.0.1"])
def test_an_address_where_nobody_answers_is_named_before_a_run(address: str, tmp_path: Path):
    source = photos.class_folders(tmp_path / "photos", {"red": 6, "green": 6})
    scale = {"runner": "dask", "dask_address": address}
    with pytest.raises(ConfigError, match="no Dask scheduler answers"):
        check_run(make_run(tmp_path / "w", source, config={"backbone": {"name": "embedded"}, "scale": scale}))


def test_a_workspace_takes_no_credentials_along():
    workspace = Workspace("memory://w")
    assert workspace.is_local is False  # its file system is open
    assert pickle.loads(pickle.dumps(workspace)) == workspace
    assert b"_fs_root" not in pickle.dumps(workspace)


def test_where_work_is_spread_is_no_part_of_what_a_result_is():
    assert parse_config({"scale": {"runner": "dask"}}).digest() == parse_config({}).digest()
