"""Files inspected and shards embedded by Dask workers, the workspace on an object store: the same as here."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.config import conf as fsspec_settings

from flows.preflight import check_run
from tasks.config import parse_config
from tasks.errors import ConfigError
from tasks.workspace import Workspace
from tests import photos
from tests.object_store import ObjectStore, object_store
from tests.runs import make_run

# A process of its own: it has a Prefect server of its own, and a cluster.
BOTH = """
import json, os, sys
from dataclasses import replace
from flows.server import start_ephemeral_server
if __name__ == "__main__":
    server = start_ephemeral_server()
    server.wait()
    from distributed import LocalCluster
    from prefect import flow
    from tasks.config import parse_config
    from tasks.modality.augmentation import policy_of
    from tasks.extract.task import extract_features, make_trunk
    from tasks.storage.feature_store import feature_store, load_features
    from tasks.ingest import catalogue
    from tasks.ingest.task import ingest_images
    from tasks.runs import new_run
    from tasks.split.task import split_images
    from tasks.storage.tables import read_table
    catalogue.CHUNK_FILES = 40

    @flow(name="embed")
    def embed(runner, address=""):
        config = parse_config({
            "backbone": {"name": "embedded", "image_size_px": 32}, "extract": {"shard_images": 40},
            "augment": {"views": 1}, "scale": {"runner": runner, "dask_address": address}})
        run = new_run(sys.argv[1], runner, f"{sys.argv[2]}/{runner}", config)
        found = ingest_images(run)
        snapshot = split_images(run, found)
        extractor = make_extractor(run, snapshot, policy_of(config))
        features = extract_features(run, snapshot, extractor, policy_of(config))
        sha256s = read_table(run.workspace, snapshot.table_path, ["sha256"])["sha256"].tolist()
        rows = load_features(run.workspace, features.extractor.key, sha256s, 0)
        parts = len(feature_store(run.workspace, features.extractor.key).parts())
        return snapshot.id, features, rows, parts, found.quarantined

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        (there, *theirs) = embed("dask", cluster.scheduler_address)
    (here, *ours) = embed("threads")
    same = here == there and ours[0] == theirs[0] and bool((ours[1] == theirs[1]).all()) and ours[2:] == theirs[2:]
    print(json.dumps({"same": same, "images": ours[0].embedded, "parts": theirs[2], "quarantined": theirs[3]}))
"""


@pytest.fixture
def s3() -> Iterator[ObjectStore]:
    with object_store(fsspec_settings) as store:
        yield store


@pytest.mark.timeout(600)
def test_the_rows_and_the_snapshot_are_those_of_one_machine(s3: ObjectStore, tmp_path: Path):
    source = photos.class_folders(tmp_path / "photos", {"red": 50, "green": 50})
    (source / "red" / "broken.jpg").write_bytes(photos.truncated_jpeg())
    script = tmp_path / "both.py"
    script.write_text(BOTH)
    environ = {**os.environ, **s3.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    environ["PREFECT_HOME"] = str(tmp_path / "prefect")
    command = [sys.executable, str(script), str(source), s3.workspace]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '{"same": true, "images": 100, "parts": 3, "quarantined": 1}' in done.stdout


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
