import pytest

from tasks.report.numbers import count, duration, figure, interval, percent


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
