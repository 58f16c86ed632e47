import pytest

from tasks.report.evidence import Prediction
from tasks.report.statistics import (
    flipped,
    most_confused,
    reliability_bins,
    worst_mistakes,
)


def prediction(label: str, predicted: str, probability: float = 0.8, champion: str | None = None) -> Prediction:
    return Prediction(
        sha256="",
        path=f"{label}-{predicted}-{probability}",
        uri="",
        label=label,
        split="test",
        predicted=predicted,
        probability=probability,
        champion_predicted=champion,
    )


def test_most_confused_orders_by_count_then_share_and_leaves_out_the_right_ones():
    predictions = [prediction("a", "b")] * 2 + [prediction("c", "d")] * 2 + [prediction("a", "a")] * 5
    pairs = most_confused(predictions)
    assert [(pair.label, pair.predicted, pair.count) for pair in pairs] == [("c", "d", 2), ("a", "b", 2)]
    assert pairs[0].share == 1.0


def test_reliability_bins_count_every_prediction_once_and_take_probability_one():
    bins = reliability_bins([*((p, True) for p in (0.0, 0.05, 0.1, 0.999, 1.0)), (1.0, False)])
    assert sum(b.n for b in bins) == 6
    assert [(b.low, b.n) for b in bins] == [(0.0, 2), (0.1, 1), (0.9, 3)]
    assert bins[-1].accuracy == pytest.approx(2 / 3)


def test_flipped_tells_won_from_lost_and_passes_over_images_without_a_champion():
    won = prediction("a", "a", champion="b")
    lost = prediction("a", "b", champion="a")
    same = prediction("a", "b", champion="c")
    assert flipped([won, lost, same, prediction("a", "b")]) == ([won], [lost])


def test_worst_mistakes_are_the_most_confident_wrong_ones():
    mild, sure = prediction("a", "b", 0.4), prediction("a", "b", 0.9)
    assert worst_mistakes([mild, prediction("a", "a", 0.99), sure], limit=2) == [sure, mild]
