"""Small changes of the picture: what they do to models whose weakness is known."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from PIL import Image

from tasks.evaluate.latency import MIN_RUNS, WARM_UP, measure_latency, noise
from tasks.evaluate.robustness import Changed, Sample, measure_robustness
from tasks.evaluate.thresholds import load_gates
from tasks.modality.feeds import Feed, feed_of_image
from tasks.modality.images.content import decode
from tasks.networks.classifier import Classifier, Prediction
from tests.deploy.serving.models import colour_model

LIMITS = load_gates("gates", "shapes").robustness
TARGETS = np.arange(40) % 2


class Probe:
    """Answers by a rule, and remembers the sizes of what it was shown."""

    task = "image"

    def __init__(self, second: Callable[[np.ndarray], bool]) -> None:
        self.second, self.shapes = second, []

    def read(self, content: bytes, max_pixels: int) -> Feed:
        return feed_of_image(decode(content, max_pixels))

    def predict_one(self, feed: Feed) -> Prediction:
        pixels = feed["image"][0]
        self.shapes.append(pixels.shape)
        return Prediction(np.array([0.1, 0.9] if self.second(pixels) else [0.9, 0.1]), None)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def measure(second: Callable[[np.ndarray], bool], images: list[np.ndarray]) -> dict[str, Changed]:
    read = [partial(png, image) for image in images]
    classifier: Classifier = Probe(second)  # type: ignore[assignment] - asked for probabilities alone
    sample = Sample(read, TARGETS[: len(images)], np.ones(len(images), bool), 32)
    found = measure_robustness(classifier, sample, LIMITS, 1)
    return {change.kind: change for change in found}


def grey(level: float, side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), level, np.uint8)


def test_a_model_that_looks_at_brightness_is_found_out():
    found = measure(lambda pixels: pixels.mean() < 128, [grey(116 if target else 140) for target in TARGETS])
    # Every second image is lit, and those are the dark ones; the bright ones are dimmed.
    assert found["brightness"].drop > 0.4
    assert found["brightness"].interval[0] > LIMITS.max_accuracy_drop
    assert {kind: change.drop for kind, change in found.items() if kind != "brightness"} == {
        "JPEG": 0,
        "blur": 0,
        "rotation": 0,
    }


def test_a_model_that_looks_at_single_pixels_is_found_out():
    dotted = grey(100)
    dotted[::4, ::4] = 255
    images = [dotted if target else grey(100) for target in TARGETS]
    strong = LIMITS.model_copy(update={"blur": 0.05})
    classifier: Classifier = Probe(lambda pixels: pixels.max() > 200)  # type: ignore[assignment]
    read = [partial(png, image) for image in images]
    found = measure_robustness(classifier, Sample(read, TARGETS, np.ones(40, bool), 32), strong, 1)
    [blurred] = [change for change in found if change.kind == "blur"]
    assert (blurred.drop, blurred.strength) == (0.5, "Gaussian, 5.0% of the shorter side")


def test_what_is_tilted_keeps_its_corners_and_what_is_large_is_made_smaller():
    shown = Probe(lambda pixels: bool((pixels < 90).any()))  # black corners would show
    classifier: Classifier = shown  # type: ignore[assignment]
    sample = Sample([partial(png, grey(120, 3000))], np.array([0]), np.ones(1, bool), 32)
    [*_, rotation] = measure_robustness(classifier, sample, LIMITS, 1)
    assert rotation.drop == 0
    assert max(max(shape) for shape in shown.shapes) == 128


def test_the_same_images_give_the_same_answers():
    classifier = Classifier(colour_model())
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(6)]
    sample = Sample([partial(png, image) for image in images], np.zeros(6, int), np.ones(6, bool), 32)
    once, again = (measure_robustness(classifier, sample, LIMITS) for _ in range(2))
    assert once == again
    assert [change.n for change in once] == [6, 6, 6, 6]
    assert measure_robustness(classifier, Sample([], np.zeros(0, int), np.zeros(0, bool), 32), LIMITS) == []


@pytest.mark.parametrize(("runs", "budget_s", "expected"), [(7, 1e9, 7), (100, 0.0, MIN_RUNS)])
def test_latency_is_of_so_many_single_images_of_the_models_size(runs: int, budget_s: float, expected: int):
    shown = Probe(lambda pixels: True)
    classifier: Classifier = shown  # type: ignore[assignment]
    found = measure_latency(classifier, feed_of_image(noise(96)), runs=runs, budget_s=budget_s)
    assert (found.runs, found.image_size_px) == (expected, 96)
    assert shown.shapes == [(96, 96, 3)] * (WARM_UP + expected)
    assert 0 < found.median_ms <= found.p95_ms <= found.interval_ms[1]
    assert found.interval_ms[0] <= found.p95_ms
