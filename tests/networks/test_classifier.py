"""The classifier as a library: one image, a batch, and what is neither."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import HeadstartError, UsageError
from tasks.networks.classifier import Classifier
from tests.deploy.serving.models import colour_model
from tests.externals import insatiable_model, with_external_weights

RED, BLUE = (np.full((6, 4, 3), colour, np.uint8) for colour in ((250, 5, 5), (5, 5, 250)))


def test_a_batch_gives_a_row_for_each_image():
    classifier = Classifier(colour_model())
    together = classifier.probabilities(np.stack([RED, BLUE]))
    assert together.shape == (2, 3)
    assert np.array_equal(together, np.stack([classifier.probabilities(RED), classifier.probabilities(BLUE)]))


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (RED.astype(np.float32), "float32 [6, 4, 3]"),
        (RED[..., 0], "uint8 [6, 4]"),
        (RED[None, None], "uint8 [1, 1, 6, 4, 3]"),
        (np.zeros((6, 4, 4), np.uint8), "uint8 [6, 4, 4]"),
        (np.zeros((0, 6, 4, 3), np.uint8), "uint8 [0, 6, 4, 3]"),
    ],
)
def test_what_is_neither_is_named_with_what_is_allowed(pixels: np.ndarray, found: str):
    with pytest.raises(UsageError, match=rf"uint8 \[height, width, 3\] in RGB.*found {re.escape(found)}"):
        Classifier(colour_model()).probabilities(pixels)


@pytest.mark.parametrize("beside", [True, False])
def test_a_file_beside_the_model_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool):
    """Neither in the model's folder, nor in the current one, where ONNX Runtime looks for what it is given as bytes."""
    content = with_external_weights(colour_model(), tmp_path / "secret.bin")
    file = tmp_path / ("model.onnx" if beside else "elsewhere/model.onnx")
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    for given in (file, content):
        with pytest.raises(HeadstartError, match="keeps 'weights' in another file"):
            Classifier(given)


def test_a_graph_cannot_fill_the_memory():
    with pytest.raises(Exception, match=r"(?i)available memory"):
        Classifier(insatiable_model()).probabilities(RED)
