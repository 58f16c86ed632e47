import pytest

from tasks.report.numbers import amount, count, duration, figure, interval, percent, rule_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(0.91234), "91.2 %"),
        (percent(None), "–"),
        (interval((0.889, 0.931)), "88.9–93.1 %"),
        (count(1234567), "1 234 567"),
        (figure(0.90321), "0.9032"),
        (figure(-0.02), "−0.02"),
        (figure(3.1e-7), "3.1e-07"),
        (figure([0.1, 0.25]), "0.1, 0.25"),
        (figure(True), "yes"),
        (figure(None), "–"),
        (figure("12 ms"), "12 ms"),
        (duration(0.42), "0.4 s"),
        (duration(59.97), "1 min 0 s"),
        (duration(83), "1 min 23 s"),
        (duration(7300), "2 h 1 min"),
    ],
)
def test_numbers_read_as_a_person_writes_them(text, expected):
    assert text.replace("\u202f", " ") == expected


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.1287, "share", "12.9\u202f%"),
        (-0.02, "points", "−2.0\u202fpoints"),
        (7.25, "ms", "7.25\u202fms"),
        (30, "images", "30\u202fimages"),
        (0.034, "p", "p = 0.034"),
        (1e-6, "", "1e-06"),
        (None, "share", "–"),
    ],
)
def test_an_amount_has_its_unit(value, unit, expected):
    assert amount(value, unit) == expected


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        ({"rule": "at most", "threshold": 0.05, "unit": "share", "judged": 0.031}, "at most 5.0 %, judged by 3.1 %"),
        ({"rule": "at least", "threshold": 15, "unit": "images", "judged": None}, "at least 15 images"),
        ({"threshold": 0.5}, "0.5"),  # of an earlier version
        ({"rule": "", "threshold": None}, "–"),
    ],
)
def test_a_rule_is_said_in_words_with_the_bound_that_is_judged(gate, expected):
    assert rule_of(gate).replace("\u202f", " ") == expected
