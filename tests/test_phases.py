"""The benchmark of a retrain's phases divides all of its seconds, and none twice."""

from __future__ import annotations

import pytest

from tests.benchmarks.phases import AFTER, BEFORE, BETWEEN, Turn, phases, table
from tests.benchmarks.retrain import STEPS


def test_the_phases_add_up_to_the_whole_on_the_clock_and_of_a_core():
    # One core is busy for the first six seconds, two for the next four.
    timeline = [(100.0, 0.0), (106.0, 6.0), (110.0, 14.0)]
    stages = [("ingest", 101.0, 103.0), ("extract", 105.0, 108.0), ("report", 108.0, 109.0)]
    found = phases(timeline, 110.0, stages)
    assert found == {
        BEFORE: pytest.approx((1.0, 1.0)),
        "ingest": pytest.approx((2.0, 2.0)),
        "extract": pytest.approx((3.0, 5.0)),
        "report": pytest.approx((1.0, 2.0)),
        BETWEEN: pytest.approx((2.0, 2.0)),
        AFTER: pytest.approx((1.0, 2.0)),
    }
    turn: Turn = dict.fromkeys(STEPS, found)
    page = table([turn, turn, turn], (4.0, 7.0))
    assert "| **whole** | 10.0 | 14.0 | 10.0 | 14.0 | 10.0 | 14.0 |" in page
    assert "2.00 times the core-seconds" in page
