from collections.abc import Iterator

import pytest

from tests.deploy.serving.models import publish
from tests.deploy.serving.running import LIMITS, running


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of one model under `LIMITS`."""
    workspace = tmp_path_factory.mktemp("served")
    publish(workspace, 1)
    with running(workspace, limits=LIMITS) as url:
        yield url
