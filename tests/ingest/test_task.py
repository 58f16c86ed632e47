import inspect

import pytest

from tasks.ingest.task import ingest_images
from tasks.split.task import split_images
from tasks.validate.task import validate_images
from tests.photos import class_folders
from tests.runs import make_run


@pytest.mark.parametrize("stage", [ingest_images, validate_images, split_images], ids=lambda stage: stage.name)
def test_stages_are_retried_and_never_cached(stage):
    assert stage.retries > 0
    assert stage.retry_condition_fn is not None
    assert stage.persist_result is False


def test_the_stages_chain(tmp_path):
    run = make_run(tmp_path / "w", class_folders(tmp_path / "photos", {"cat": 8, "dog": 8}))
    snapshot = split_images.fn(run, validate_images.fn(run, ingest_images.fn(run)))
    assert (snapshot.labels, snapshot.images, snapshot.new) == (("cat", "dog"), 16, 16)


def test_wrappers_only_call_logic():
    for stage in (ingest_images, validate_images, split_images):
        assert len(inspect.getsource(stage.fn).splitlines()) <= 13
