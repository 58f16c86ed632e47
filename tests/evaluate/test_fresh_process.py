"""A real fresh interpreter on real files, the good and the bad."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.evaluate.fresh_process import FreshProcess, predict_in_fresh_process
from tests.deploy.serving.models import COLOURS, colour_model

IMAGES = [np.full((20, 30, 3), [200 * (channel == own) for channel in range(3)], np.uint8) for own in range(3)]


def answer(content: bytes, budget_s: float = 60) -> FreshProcess:
    return predict_in_fresh_process(content, [{"image": image[None]} for image in IMAGES], COLOURS, budget_s)


def test_a_good_file_is_loaded_and_answers():
    found = answer(colour_model())
    assert (found.images, found.agreed, found.problem) == (3, 3, None)
    assert 0 < found.load_s < found.seconds


def test_other_answers_are_counted():
    assert answer(colour_model(turn=1)).agreed == 0


@pytest.mark.parametrize(
    ("content", "budget_s", "says"),
    [
        (b"no graph", 60, "it ended with status 1"),
        (colour_model(sharpness=np.nan), 60, "sum up to nan"),
        (colour_model(), 0.01, "it was not done after 0.01 s"),
    ],
)
def test_a_file_that_does_not_serve_says_why(content: bytes, budget_s: float, says: str):
    found = answer(content, budget_s)
    assert found.agreed == 0
    assert says in (found.problem or "")


def test_the_runner_needs_nothing_of_headstart():
    from tasks.evaluate.fresh_process import RUNNER

    imports = [line.split()[1] for line in RUNNER.read_text().splitlines() if line.startswith(("import ", "from "))]
    assert imports == ["io", "json", "sys", "time", "numpy", "onnxruntime"]
