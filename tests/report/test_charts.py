from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.report.charts import (
    bar,
    confusion_chart,
    doubling_figure,
    line_figure,
    nice_ticks,
    reliability_chart,
    share_ticks,
)
from tasks.report.statistics import ReliabilityBin


def parse(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(markup)


def texts(markup: str) -> list[str]:
    return [element.text or "" for element in parse(markup).iter("text")]


def test_confusion_figure_counts_each_cell_and_names_each_class_twice():
    svg = confusion_chart(["cat", "dog"], {("cat", "cat"): 9, ("cat", "dog"): 1, ("dog", "dog"): 5})
    assert sorted(texts(svg))[:3] == ["1", "5", "9"]
    assert texts(svg).count("cat") == 2
    titles = [title.text for title in parse(svg).iter("title")]
    assert "1 of 10 cat taken for dog" in titles


def test_confusion_figure_shades_by_the_share_of_the_row():
    svg = parse(confusion_chart(["cat", "dog"], {("cat", "cat"): 1, ("dog", "dog"): 50, ("dog", "cat"): 50}))
    opacities = [float(cell.get("fill-opacity", 0)) for cell in svg.iter("rect") if cell.get("class") != "cell"]
    assert opacities == [1.0, 0.56, 0.56]


def test_a_large_confusion_matrix_is_one_picture():
    labels = [str(i) for i in range(120)]
    svg = parse(confusion_chart(labels, {(a, a): 2 for a in labels}))
    (picture,) = svg.iter("image")
    assert (picture.get("href") or "").startswith("data:image/png;base64,")


def test_labels_are_escaped():
    svg = confusion_chart(["<b>&", "dog"], {("<b>&", "dog"): 1})
    assert "<b>" not in svg
    assert "&lt;b&gt;&amp;" in svg


def test_line_figure_marks_the_kept_epoch_and_skips_what_is_not_finite():
    svg = line_figure("Loss", {"train": [3.0, float("nan"), 1.0], "held-out": [2.0, 1.5, 1.2]}, best=3)
    train, held_out = (line.get("points", "").split() for line in parse(svg).iter("polyline"))
    assert (len(train), len(held_out)) == (2, 3)
    assert "kept: epoch 3" in texts(svg)


@pytest.mark.parametrize("series", [{}, {"train": []}, {"train": [0.5]}, {"train": [0.0, 0.0]}])
def test_line_figure_takes_the_degenerate(series):
    parse(line_figure("Accuracy", series, best=1, percent=True))


def test_bar_keeps_within_its_groove():
    widths = [float(rect.get("width", 0)) for rect in parse(bar(1.7, interval=(-0.2, 1.4))).iter("rect")]
    assert max(widths) == 100


def test_reliability_figure_draws_a_dot_a_bin():
    bins = [ReliabilityBin(0.8, 0.9, 40, 0.85, 0.9), ReliabilityBin(0.9, 1.0, 10, 0.95, 0.6)]
    dots = list(parse(reliability_chart(bins)).iter("circle"))
    assert [float(dot.get("r", 0)) for dot in dots] == [10.0, 6.5]
    both = [circle.get("class") for circle in parse(reliability_chart(bins, bins[:1])).iter("circle")]
    assert sorted(filter(None, both)) == ["dot", "dot", "ring"]


def test_a_learning_curve_ends_in_its_forecast():
    marks = list(parse(doubling_figure([(100, 0.7), (200, 0.8)], 0.85)).iter("circle"))
    assert [mark.get("class") for mark in marks] == ["dot", "dot", "ring"]
    heights = [float(mark.get("cy", 0)) for mark in marks]
    assert heights == sorted(heights, reverse=True)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_nice_ticks_enclose_their_range(a, b):
    low, high = min(a, b), max(a, b)
    ticks = nice_ticks(low, high)
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 8


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_an_axis_of_shares_encloses_them_and_ends_at_100_percent(shares: list[float]):
    ticks = share_ticks(shares)
    assert 0 <= ticks[0] <= min(shares) + 1e-6
    assert max(shares) - 1e-6 <= ticks[-1] <= 1
    assert 2 <= len(ticks) <= 8
