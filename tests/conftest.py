"""What every test has: the session's folder and Prefect server, and a small real feature extractor."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from tests import session

session.prepare()

import pytest  # noqa: E402 - after the environment is prepared


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the long files first, so that no worker is left alone with one of them at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/flows/"))


@pytest.fixture(scope="module")
def prefect_api() -> Iterator[str]:
    """The address of the session's Prefect server, which this process and those that it starts use."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url = session.server_url()
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: url}):
        patch.setenv("PREFECT_API_URL", url)
        yield url


@pytest.fixture(scope="session")
def small_extractor() -> dict[str, object]:
    """The configuration's `backbone` section for a feature extractor that is quick to export and to run."""
    return {"name": "embedded", "image_size_px": 32}


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
