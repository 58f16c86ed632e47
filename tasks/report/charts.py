"""The report's charts, as SVG whose colours are the page's own, so that they follow light, dark and print.

Built as XML trees: every label is escaped by construction. Each function returns Markup that a template takes
as it is. Sizes are in SVG user units, one a CSS pixel at natural size.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from PIL import Image

from tasks.networks.intervals import wilson_interval
from tasks.report.statistics import COVERAGES, ReliabilityBin
from tasks.report.thumbnails import data_uri

MATRIX_SIDE = 560
MAX_NAMED_CLASSES = 40  # with more, names beside the matrix are unreadable
MIN_COUNTED_CELL = 20  # narrower cells have no room for a count
CHART = (440, 260)
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 46, 24, 14, 48
LEAST_RANGE = 0.05  # of an axis of shares


def confusion_chart(labels: Sequence[str], counts: Mapping[tuple[str, str], int], items: str = "images") -> Markup:
    """The confusion matrix: a row for each given label, a column for each predicted one, shaded by row share.

    Up to `MAX_NAMED_CLASSES` classes are named and counted; more become one picture of a pixel a cell.
    """
    if len(labels) > MAX_NAMED_CLASSES:
        return _confusion_picture(labels, counts, items)
    cell = max(14, min(52, MATRIX_SIDE // max(1, len(labels))))
    shown = [shorten(label, 20) for label in labels]
    gutter = 26 + round(7.2 * max((len(name) for name in shown), default=0))
    side = cell * len(labels)
    summary = _matrix_summary(counts, items)
    svg = _svg(gutter + side + 8, side + gutter + 8, "Confusion matrix", "matrix", labelled=summary)
    totals = _row_totals(counts)
    for row, label in enumerate(labels):
        middle = row * cell + cell / 2
        _text(svg, shown[row], gutter - 8, middle, "end", title=label)
        _text(svg, shown[row], gutter + middle, side + 10, "end", title=label, turn=-90)
        for column, predicted in enumerate(labels):
            count = counts.get((label, predicted), 0)
            _cell(svg, (gutter + column * cell, row * cell, cell), count, totals.get(label, 0), row == column).append(
                _element("title", f"{count} of {totals.get(label, 0)} {label} taken for {predicted}")
            )
            if count and cell >= MIN_COUNTED_CELL:
                strong = count / totals[label] > 0.55
                _text(
                    svg,
                    str(count),
                    gutter + (column + 0.5) * cell,
                    middle,
                    "middle",
                    kind="on" if strong else "count",
                )
    _text(svg, "given label ↓   predicted →", 0, side + gutter, "start", kind="axis")
    return _markup(svg)


def _cell(
    svg: ElementTree.Element, square: tuple[float, float, float], count: int, total: int, diagonal: bool
) -> ElementTree.Element:
    x, y, cell = square
    rect = ElementTree.SubElement(svg, "rect", {"class": "cell"})
    rect.attrib.update(x=_n(x + 1), y=_n(y + 1), width=_n(cell - 2), height=_n(cell - 2), rx="3")
    if count:
        rect.set("class", "right" if diagonal else "wrong")
        rect.set("fill-opacity", f"{0.12 + 0.88 * count / total:.2f}")
    return rect


def _confusion_picture(labels: Sequence[str], counts: Mapping[tuple[str, str], int], items: str) -> Markup:
    size = len(labels)
    index = {label: i for i, label in enumerate(labels)}
    totals = _row_totals(counts)
    pixels = np.zeros((size, size, 4), np.uint8)
    for (label, predicted), count in counts.items():
        colour = (38, 98, 155) if label == predicted else (190, 60, 45)
        opacity = round(
            255 * (0.25 + 0.75 * count / totals[label])
        )  # else faint cells of a big matrix would be invisible
        pixels[index[label], index[predicted]] = (*colour, opacity)
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(buffer, "PNG")
    gutter = 44
    svg = _svg(
        gutter + MATRIX_SIDE + 8,
        MATRIX_SIDE + gutter,
        "Confusion matrix",
        "matrix",
        labelled=_matrix_summary(counts, items),
    )
    frame = {"x": str(gutter), "y": "0", "width": str(MATRIX_SIDE), "height": str(MATRIX_SIDE)}
    ElementTree.SubElement(svg, "rect", {**frame, "class": "cell"})
    picture = {"href": data_uri(buffer.getvalue(), "image/png"), "style": "image-rendering:pixelated"}
    ElementTree.SubElement(svg, "image", {**frame, **picture})
    for tick in range(0, size, max(10, round(size / 80) * 10)):
        at = (tick + 0.5) * MATRIX_SIDE / size
        _text(svg, str(tick), gutter - 6, max(at, 7), "end", title=labels[tick])
        _text(svg, str(tick), gutter + at, MATRIX_SIDE + 12, "middle", title=labels[tick])
    _text(svg, "given label ↓   predicted →   (class index)", gutter, MATRIX_SIDE + 32, "start", kind="axis")
    return _markup(svg)


def _row_totals(counts: Mapping[tuple[str, str], int]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for (label, _), count in counts.items():
        totals[label] = totals.get(label, 0) + count
    return totals


def _matrix_summary(counts: Mapping[tuple[str, str], int], items: str) -> str:
    right = sum(count for (label, predicted), count in counts.items() if label == predicted)
    return f"Confusion matrix: {right} of {sum(counts.values())} {items} on the diagonal; see the table of pairs."


def bar(
    value: float, *, interval: tuple[float, float] | None = None, kind: str = "bar", title: str | None = None
) -> Markup:
    """One horizontal bar for a table's cell: `value` and an optional 95 % `interval`, all in 0..1.

    The table names the row and holds the figures, so an untitled bar is hidden from screen readers.
    """
    svg = ElementTree.Element("svg", {"class": "inline-bar", "viewBox": "0 0 100 12", "preserveAspectRatio": "none"})
    svg.attrib.update({"role": "img", "aria-label": title} if title else {"aria-hidden": "true"})
    ElementTree.SubElement(svg, "rect", {"class": "groove", "y": "2", "width": "100", "height": "8"})
    width = 100 * min(max(value, 0.0), 1.0)
    ElementTree.SubElement(svg, "rect", {"class": kind, "y": "2", "width": _n(width), "height": "8"})
    if interval:
        low, high = (100 * min(max(end, 0.0), 1.0) for end in interval)
        for x1, x2, y1, y2 in ((low, high, 6, 6), (low, low, 3, 9), (high, high, 3, 9)):
            line = {"x1": _n(x1), "x2": _n(x2), "y1": str(y1), "y2": str(y2)}
            ElementTree.SubElement(svg, "line", {"class": "whisker", **line})
    return _markup(svg)


def stacked_bar(shares: Sequence[tuple[str, float]]) -> Markup:
    """One bar of several parts, given as (CSS class, share in 0..1)."""
    svg = ElementTree.Element("svg", {"class": "inline-bar", "viewBox": "0 0 100 12", "preserveAspectRatio": "none"})
    svg.set("aria-hidden", "true")
    x = 0.0
    for kind, share in shares:
        part = {"class": kind, "x": _n(x), "y": "2", "width": _n(100 * share), "height": "8"}
        ElementTree.SubElement(svg, "rect", part)
        x += 100 * share
    return _markup(svg)


def line_figure(
    title: str, series: Mapping[str, Sequence[float]], *, best: int | None = None, percent: bool = False
) -> Markup:
    """Values by epoch: `series` maps a CSS class ('train', 'held-out') to its values; `best` is marked."""
    values = [value for line in series.values() for value in line if math.isfinite(value)]
    epochs = max((len(line) for line in series.values()), default=0)
    width, height = CHART
    svg = _svg(width, height, title, "chart", labelled=_line_summary(title, series, percent))
    if not values:
        return _markup(svg)
    ticks = share_ticks(values) if percent else nice_ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]

    def x(epoch: float) -> float:
        return _scale(epoch, 1, max(2, epochs), MARGIN_LEFT, width - MARGIN_RIGHT)

    def y(value: float) -> float:
        return _scale(value, low, high, height - MARGIN_BOTTOM, MARGIN_TOP)

    _grid(svg, ticks, y, percent)
    for epoch in _whole_ticks(epochs):
        _text(svg, str(epoch), x(epoch), height - MARGIN_BOTTOM + 16, "middle")
    if best:
        mark = {
            "x1": _n(x(best)),
            "x2": _n(x(best)),
            "y1": str(MARGIN_TOP),
            "y2": str(height - MARGIN_BOTTOM),
        }
        ElementTree.SubElement(svg, "line", {"class": "best", **mark})
        side, offset = ("end", -6) if x(best) > width / 2 else ("start", 6)
        # Placed where there are no lines: below rising ones, above falling ones.
        above = _falls(series)
        _text(
            svg,
            f"kept: epoch {best}",
            x(best) + offset,
            MARGIN_TOP + 8 if above else height - MARGIN_BOTTOM - 10,
            side,
        )
    for kind, line in series.items():
        points = " ".join(f"{_n(x(i))},{_n(y(value))}" for i, value in enumerate(line, 1) if math.isfinite(value))
        ElementTree.SubElement(svg, "polyline", {"class": f"line {kind}", "points": points})
    _text(svg, "epoch", width - MARGIN_RIGHT, height - 10, "end", kind="axis")
    return _markup(svg)


def reliability_chart(
    bins: Sequence[ReliabilityBin], before: Sequence[ReliabilityBin] = (), items: str = "images"
) -> Markup:
    """Predicted probability against accuracy: a dot for each bin, sized by count, with its 95 % interval.

    Args:
        before: the same without the temperature; drawn as circles under a thin line.
    """
    width, height = CHART
    svg = _svg(width, height, "Reliability", "chart", labelled="Reliability diagram; figures in the table beside it.")

    def x(value: float) -> float:
        return _scale(value, 0, 1, MARGIN_LEFT, width - MARGIN_RIGHT)

    def y(value: float) -> float:
        return _scale(value, 0, 1, height - MARGIN_BOTTOM, MARGIN_TOP)

    ticks = [0, 0.25, 0.5, 0.75, 1.0]
    _grid(svg, ticks, y, percent=True)
    for tick in ticks:
        _text(svg, f"{tick:.0%}", x(tick), height - MARGIN_BOTTOM + 16, "middle")
    diagonal = {"x1": _n(x(0)), "y1": _n(y(0)), "x2": _n(x(1)), "y2": _n(y(1))}
    ElementTree.SubElement(svg, "line", {"class": "diagonal", **diagonal})
    most = max((b.n for b in (*bins, *before)), default=1)
    if before:
        points = " ".join(f"{_n(x(b.confidence))},{_n(y(b.accuracy))}" for b in before)
        ElementTree.SubElement(svg, "polyline", {"class": "line before", "points": points})
    for b in before:
        ring = {"cx": _n(x(b.confidence)), "cy": _n(y(b.accuracy)), "r": _n(3 + 7 * math.sqrt(b.n / most))}
        circle = ElementTree.SubElement(svg, "circle", {"class": "ring", **ring})
        circle.append(_element("title", f"before: {b.n} {items}: claimed {b.confidence:.1%}, right {b.accuracy:.1%}"))
    for b in bins:
        low, high = wilson_interval(round(b.accuracy * b.n), b.n)
        whisker = {"x1": _n(x(b.confidence)), "x2": _n(x(b.confidence)), "y1": _n(y(low)), "y2": _n(y(high))}
        ElementTree.SubElement(svg, "line", {"class": "whisker", **whisker})
        dot = {"cx": _n(x(b.confidence)), "cy": _n(y(b.accuracy)), "r": _n(3 + 7 * math.sqrt(b.n / most))}
        circle = ElementTree.SubElement(svg, "circle", {"class": "dot", **dot})
        circle.append(_element("title", f"{b.n} {items}: claimed {b.confidence:.1%}, right {b.accuracy:.1%}"))
    _text(svg, "probability claimed", width - MARGIN_RIGHT, height - 10, "end", kind="axis")
    _text(svg, "share right", MARGIN_LEFT + 6, MARGIN_TOP + 4, "start", kind="axis")
    return _markup(svg)


def coverage_chart(by_probability: Sequence[float], by_familiarity: Sequence[float]) -> Markup:
    """The share right of the answers that are kept, against the share that is kept, at `COVERAGES`."""
    width, height = CHART
    values = [*by_probability, *by_familiarity]
    ends = f"{by_probability[0]:.1%} of all, {by_probability[-1]:.1%} of the surest half"
    svg = _svg(width, height, "Risk and coverage", "chart", labelled=f"Share right by share kept: {ends}")
    ticks = share_ticks([*values, 1.0])

    def x(share: float) -> float:
        return _scale(share, COVERAGES[0], COVERAGES[-1], MARGIN_LEFT, width - MARGIN_RIGHT)

    def y(value: float) -> float:
        return _scale(value, ticks[0], ticks[-1], height - MARGIN_BOTTOM, MARGIN_TOP)

    _grid(svg, ticks, y, percent=True)
    for share in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5):
        _text(svg, f"{share:.0%}", x(share), height - MARGIN_BOTTOM + 16, "middle")
    for kind, line in (("held-out", by_probability), ("train", by_familiarity)):
        points = " ".join(f"{_n(x(share))},{_n(y(value))}" for share, value in zip(COVERAGES, line, strict=True))
        ElementTree.SubElement(svg, "polyline", {"class": f"line {kind}", "points": points})
    _text(svg, "answers kept", width - MARGIN_RIGHT, height - 10, "end", kind="axis")
    return _markup(svg)


def doubling_figure(points: Sequence[tuple[int, float]], forecast: float, items: str = "images") -> Markup:
    """Accuracy by labels, each point twice as many as the one before, and a `forecast` for twice as many again."""
    width, height = CHART
    values = [value for _, value in points]
    told = ", ".join(f"{value:.1%} with {count} {items}" for count, value in points)
    svg = _svg(width, height, "Learning curve", "chart", labelled=f"Learning curve: {told}; forecast {forecast:.1%}")
    ticks = share_ticks([*values, forecast])

    def x(place: float) -> float:
        return _scale(place, 0, len(points), MARGIN_LEFT + 24, width - MARGIN_RIGHT - 24)

    def y(value: float) -> float:
        return _scale(value, ticks[0], ticks[-1], height - MARGIN_BOTTOM, MARGIN_TOP)

    _grid(svg, ticks, y, percent=True)
    last = len(points) - 1
    ends = {"x1": _n(x(last)), "y1": _n(y(values[-1])), "x2": _n(x(last + 1)), "y2": _n(y(forecast))}
    ElementTree.SubElement(svg, "line", {"class": "diagonal", **ends})
    line = " ".join(f"{_n(x(place))},{_n(y(value))}" for place, value in enumerate(values))
    ElementTree.SubElement(svg, "polyline", {"class": "line held-out", "points": line})
    marks = [*points, (2 * points[-1][0], forecast)]
    for place, (count, value) in enumerate(marks):
        kind = "dot" if place <= last else "ring"
        ElementTree.SubElement(svg, "circle", {"class": kind, "cx": _n(x(place)), "cy": _n(y(value)), "r": "5"})
        _text(svg, f"{count:,}".replace(",", "\u202f"), x(place), height - MARGIN_BOTTOM + 16, "middle")
        above = y(value) > MARGIN_TOP + 22
        _text(svg, f"{value:.1%}", x(place), y(value) + (-16 if above else 16), "middle", kind="count")
    _text(svg, f"{items} it learned from (last: forecast)", width - MARGIN_RIGHT, height - 10, "end", kind="axis")
    return _markup(svg)


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round values that enclose [low, high], in steps of 1, 2 or 5 times a power of ten."""
    span = max((high - low) or abs(high) or 1.0, 1e-9)  # less is noise, and may have no logarithm
    power = 10 ** math.floor(math.log10(span / about))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def share_ticks(shares: Sequence[float]) -> list[float]:
    """Round shares that enclose these, none above 1: what hardly differs is shown with room below it."""
    low, high = min(shares), max(shares)
    return nice_ticks(max(min(low, high - LEAST_RANGE), 0.0), high)


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _falls(series: Mapping[str, Sequence[float]]) -> bool:
    return sum(line[-1] - line[0] for line in series.values() if line) < 0


def _whole_ticks(epochs: int) -> list[int]:
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if epochs / s <= 8)
    return sorted({1, *range(step, epochs + 1, step)})


def _grid(svg: ElementTree.Element, ticks: Sequence[float], y: Callable[[float], float], percent: bool) -> None:
    for tick in ticks:
        line = {
            "x1": str(MARGIN_LEFT),
            "x2": str(CHART[0] - MARGIN_RIGHT),
            "y1": _n(y(tick)),
            "y2": _n(y(tick)),
        }
        ElementTree.SubElement(svg, "line", {"class": "grid", **line})
        _text(svg, f"{tick:.0%}" if percent else f"{tick:g}", MARGIN_LEFT - 7, y(tick), "end")


def _line_summary(title: str, series: Mapping[str, Sequence[float]], percent: bool) -> str:
    ends = (
        f"{kind} from {line[0]:.3g} to {line[-1]:.3g}"
        if not percent
        else f"{kind} from {line[0]:.1%} to {line[-1]:.1%}"
        for kind, line in series.items()
        if line
    )
    return f"{title} by epoch: {', '.join(ends)}"


def _svg(width: float, height: float, title: str, kind: str, *, labelled: str | None = None) -> ElementTree.Element:
    svg = ElementTree.Element("svg", {"class": kind, "viewBox": f"0 0 {_n(width)} {_n(height)}", "role": "img"})
    svg.attrib.update({"width": _n(width), "height": _n(height), "aria-label": labelled or title})
    return svg


def _text(
    svg: ElementTree.Element,
    text: str,
    x: float,
    y: float,
    anchor: str,
    *,
    kind: str = "tick",
    title: str | None = None,
    turn: int = 0,
) -> None:
    attributes = {
        "class": kind,
        "x": _n(x),
        "y": _n(y),
        "text-anchor": anchor,
        "dominant-baseline": "central",
    }
    if turn:
        attributes["transform"] = f"rotate({turn} {_n(x)} {_n(y)})"
    element = _element("text", text, attributes)
    if title and title != text:
        element.append(_element("title", title))
    svg.append(element)


def _element(tag: str, text: str, attributes: Mapping[str, str] | None = None) -> ElementTree.Element:
    element = ElementTree.Element(tag, dict(attributes or {}))
    element.text = text
    return element


def _scale(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (value - low) / ((high - low) or 1) * (end - start)


def _n(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")


def _markup(svg: ElementTree.Element) -> Markup:
    return Markup(ElementTree.tostring(svg, encoding="unicode"))
