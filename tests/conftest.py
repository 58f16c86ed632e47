"""What every test has: quiet libraries, a Prefect home of its own, and a real small feature extractor."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="headstart-prefect-")

import pytest

from tasks.networks.registry import build_network, get_backbone

EXTRACTOR_SIZE_PX = 32

atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of MobileNetV2 as Keras initialises them under a fixed seed: a real network, only not a trained one."""
    import keras

    keras.utils.set_random_seed(3)
    network = build_network(get_backbone("mobilenet_v2"), None, EXTRACTOR_SIZE_PX)
    path = tmp_path_factory.mktemp("weights") / "random.weights.h5"
    network.save_weights(path)
    return path


@pytest.fixture(scope="session")
def small_extractor(random_weights: Path) -> dict[str, object]:
    """The configuration's `backbone` section for a feature extractor that is quick to run."""
    return {"weights": str(random_weights), "image_size_px": EXTRACTOR_SIZE_PX}


@pytest.fixture
def bucket_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A workspace's URL in a bucket of a real S3 server on loopback."""
    import fsspec
    from fsspec.config import conf as fsspec_settings
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", "key": "k", "secret": "s"}
    monkeypatch.setitem(fsspec_settings, "s3", options)
    bucket = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3").mkdir(bucket)
    yield f"s3://{bucket}/workspace"
    server.stop()
