"""The picture of a replay: accuracy against the number of labels, chosen and at random, as an SVG file."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np

from tasks.pool.replay import METHODS, TARGET_SHARES, Replay
from tasks.report.charts import nice_ticks

SVG = "http://www.w3.org/2000/svg"
WIDTH, HEIGHT = 620, 340
LEFT, RIGHT, TOP, BOTTOM = 54, 110, 34, 46
STYLE = """
svg { background: #fff } text { font: 12px system-ui, sans-serif; fill: #1c2024 }
.tick, .axis { fill: #5b6470 } .title { font-weight: 600; font-size: 13px }
.grid { stroke: #e3dfd6 } .full { stroke: #5b6470; stroke-dasharray: 2 4 }
.line { fill: none; stroke-width: 2.4; stroke-linejoin: round }
.chosen { stroke: #26629b } .random { stroke: #a1672f } .band { stroke: none; fill-opacity: .16 }
.band.chosen { fill: #26629b } .band.random { fill: #a1672f }
text.chosen, text.random { stroke: none; font-weight: 600 } text.chosen { fill: #26629b } text.random { fill: #a1672f }
"""


def replay_chart(found: Replay, title: str) -> bytes:
    """An SVG of both curves, the mean over the seeds in the band of its 95 % interval; labels on a logarithmic axis."""
    svg = ElementTree.Element("svg", {"xmlns": SVG, "viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img"})
    svg.attrib.update({"width": str(WIDTH), "height": str(HEIGHT), "aria-label": _summary(found, title)})
    ElementTree.SubElement(svg, "style").text = STYLE
    bands = {method: found.interval(method) for method in METHODS}
    ticks = nice_ticks(
        min(low.min() for _, low, _ in bands.values()), max(found.full, *(h.max() for *_, h in bands.values()))
    )
    across = np.log(found.labels / found.labels[0]) / np.log(found.labels[-1] / found.labels[0])
    places = LEFT + across * (WIDTH - LEFT - RIGHT)

    def y(values: np.ndarray) -> np.ndarray:
        return HEIGHT - BOTTOM - (values - ticks[0]) / (ticks[-1] - ticks[0]) * (HEIGHT - BOTTOM - TOP)

    _text(svg, title, LEFT, 18, "start", "title")
    for tick in ticks:
        _line(svg, LEFT, WIDTH - RIGHT, float(y(np.array(tick))), "grid")
        _text(svg, f"{tick:.0%}", LEFT - 8, float(y(np.array(tick))) + 4, "end", "tick")
    for share in TARGET_SHARES:
        _line(svg, LEFT, WIDTH - RIGHT, float(y(np.array(share * found.full))), "full")
        _text(
            svg, f"{share:.0%} of all", WIDTH - RIGHT + 6, float(y(np.array(share * found.full))) + 4, "start", "tick"
        )
    for method, (mean, low, high) in bands.items():
        around = [*zip(places, y(low), strict=True), *reversed(list(zip(places, y(high), strict=True)))]
        ElementTree.SubElement(svg, "polygon", {"class": f"band {method}", "points": _points(around)})
        ElementTree.SubElement(
            svg, "polyline", {"class": f"line {method}", "points": _points(zip(places, y(mean), strict=True))}
        )
    for place, labels in list(zip(places, found.labels.tolist(), strict=True))[:: max(1, len(places) // 7)]:
        _text(svg, f"{labels:,}", float(place), HEIGHT - BOTTOM + 18, "middle", "tick")
    _text(svg, "labels", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "middle", "axis")
    for line, method in enumerate(METHODS):
        _text(svg, method, WIDTH - RIGHT - 8, HEIGHT - BOTTOM - 30 + 17 * line, "end", method)
    return ElementTree.tostring(svg, encoding="utf-8", xml_declaration=True)


def _summary(found: Replay, title: str) -> str:
    chosen, random = (found.needed(method, TARGET_SHARES[0]).mean() for method in METHODS)
    return f"{title}: {TARGET_SHARES[0]:.0%} of the accuracy with all labels took {chosen:.0f}, at random {random:.0f}"


def _points(places: Sequence[tuple[float, float]] | zip) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _line(svg: ElementTree.Element, left: float, right: float, y: float, kind: str) -> None:
    ends = {"x1": f"{left:.1f}", "x2": f"{right:.1f}", "y1": f"{y:.1f}", "y2": f"{y:.1f}"}
    ElementTree.SubElement(svg, "line", {"class": kind, **ends})


def _text(svg: ElementTree.Element, text: str, x: float, y: float, anchor: str, kind: str) -> None:
    attributes = {"class": kind, "x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
    ElementTree.SubElement(svg, "text", attributes).text = text
