"""Rolling back publishes an earlier content again, as a new version that verifies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.errors import DamagedFileError, UsageError
from tasks.networks.classifier import Classifier
from tasks.publish.rollback import roll_back
from tasks.publish.verify import verify
from tasks.storage.repository import read_manifest, read_model, versions
from tasks.workspace import Workspace
from tests.deploy.serving.models import colour_model, publish

NAME = "colours"
RED = np.full((4, 4, 3), (250, 5, 5), np.uint8)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    publish(tmp_path, 1)
    publish(tmp_path, 2, content=colour_model(turn=1))
    return Workspace(str(tmp_path))


def answer(workspace: Workspace, version: int) -> tuple[str, np.ndarray]:
    classifier = Classifier(read_model(workspace, NAME, version)["model.onnx"])
    return classifier.metadata.get("version", "none"), classifier.probabilities(RED)


def test_the_version_before_is_published_again_as_a_new_one(workspace: Workspace):
    done = roll_back(workspace, NAME)
    assert (done["version"], done["restored"], done["replaced"]) == (3, 1, 2)
    assert versions(workspace, NAME) == [1, 2, 3]
    version, probabilities = answer(workspace, 3)
    assert version == "3"
    assert (probabilities == answer(workspace, 1)[1]).all()
    assert (probabilities != answer(workspace, 2)[1]).any()
    assert read_manifest(workspace, NAME, 3)["restored"] == 1
    assert verify(workspace.path(f"models/{NAME}/3")).problems == []


def test_rolling_back_twice_does_not_swing_to_and_fro(workspace: Workspace):
    roll_back(workspace, NAME)
    with pytest.raises(UsageError, match="no version before 1; name one with --to"):
        roll_back(workspace, NAME)
    assert roll_back(workspace, NAME, to=2)["version"] == 4


@pytest.mark.parametrize(("to", "says"), [(2, "in service already"), (9, "has no version 9; it has 1, 2")])
def test_a_version_that_makes_no_sense_is_refused(workspace: Workspace, to: int, says: str):
    with pytest.raises(UsageError, match=says):
        roll_back(workspace, NAME, to)


def test_a_damaged_version_is_not_restored(workspace: Workspace):
    Path(workspace.path(f"models/{NAME}/1/model.onnx")).write_bytes(b"damaged")
    with pytest.raises(DamagedFileError):
        roll_back(workspace, NAME)
    assert versions(workspace, NAME) == [1, 2]


def test_a_model_that_was_never_published_is_named(workspace: Workspace):
    with pytest.raises(UsageError, match="hats has no published version"):
        roll_back(workspace, "hats")
