"""Self-contained pictures, as `data:` URIs of SVG: the confusion matrix and a sample of judged images."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from tasks.report.charts import confusion_chart, shorten
from tasks.report.evidence import Evidence, Prediction
from tasks.report.numbers import percent
from tasks.report.statistics import confusion_counts, worst_mistakes
from tasks.report.thumbnails import data_uri, thumbnail_uri

SVG = "http://www.w3.org/2000/svg"
STYLE = """
svg { background: #fff } text { font: 12px system-ui, sans-serif; fill: #1c2024 }
.tick { fill: #5b6470 } .axis { fill: #5b6470; font-style: italic } .on { fill: #fff; font-weight: 600 }
.right { fill: #26629b } .wrong { fill: #be3c2d } .cell { fill: #eceef1; fill-opacity: .55 }
.name { font-weight: 600 } .miss { fill: #be3c2d; font-weight: 600 } .frame { fill: #eceef1 }
.ring { fill: none; stroke: #be3c2d; stroke-width: 3 }
"""
SAMPLES, COLUMNS = 12, 6
TILE, CAPTION, GAP = 132, 40, 14
MARGIN = 8


def confusion_picture(evidence: Evidence) -> str | None:
    """The confusion matrix of the judged predictions; None in a run without any."""
    if not evidence.judged:
        return None
    figure = ElementTree.fromstring(
        confusion_chart(evidence.labels, confusion_counts(evidence.judged), f"{evidence.run.config.task}s")
    )
    return _complete(figure)


def sample_picture(evidence: Evidence) -> str | None:
    """Some judged images with their predictions: half of them the most confident mistakes, the rest spread over the
    split. None in a run without predictions."""
    chosen = choose_samples(evidence.judged)
    if not chosen:
        return None
    rows = -(-len(chosen) // COLUMNS)
    columns = min(COLUMNS, len(chosen))
    width, height = columns * (TILE + GAP) + GAP, rows * (TILE + CAPTION + GAP) + GAP
    svg = ElementTree.Element("svg", {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height)})
    for place, prediction in enumerate(chosen):
        x = GAP + place % COLUMNS * (TILE + GAP)
        y = GAP + place // COLUMNS * (TILE + CAPTION + GAP)
        _tile(svg, prediction, x, y)
    return _complete(svg)


def choose_samples(judged: Sequence[Prediction], count: int = SAMPLES) -> list[Prediction]:
    """Up to half of `count` wrong predictions, the most confident first; then right ones, spread over the split."""
    wrong = worst_mistakes(judged, count // 2)
    right = sorted((p for p in judged if p.correct), key=lambda p: (p.label, p.sha256))
    wanted = min(len(right), count - len(wrong))
    return wrong + [right[len(right) * i // wanted] for i in range(wanted)]


def _tile(svg: ElementTree.Element, prediction: Prediction, x: int, y: int) -> None:
    square = {"x": str(x), "y": str(y), "width": str(TILE), "height": str(TILE)}
    ElementTree.SubElement(svg, "rect", {**square, "rx": "6", "class": "frame"})
    if picture := thumbnail_uri(prediction.uri, TILE):
        ElementTree.SubElement(svg, "image", {**square, "href": picture, "preserveAspectRatio": "xMidYMid meet"})
    caption = f"{shorten(prediction.predicted, 14)} {percent(prediction.probability)}"
    kind = "name" if prediction.correct else "miss"
    ElementTree.SubElement(svg, "text", {"x": str(x), "y": str(y + TILE + 17), "class": kind}).text = caption
    if not prediction.correct:
        ElementTree.SubElement(svg, "rect", {**square, "rx": "6", "class": "ring"})
        given = ElementTree.SubElement(svg, "text", {"x": str(x), "y": str(y + TILE + 33), "class": "tick"})
        given.text = f"label: {shorten(prediction.label, 14)}"


def _complete(svg: ElementTree.Element) -> str:
    """A complete SVG with its name space, colours and a margin, as a `data:` URI."""
    svg.set("xmlns", SVG)
    left, top, width, height = (float(number) for number in svg.attrib["viewBox"].split())
    svg.set("viewBox", f"{left - MARGIN} {top - MARGIN} {width + 2 * MARGIN} {height + 2 * MARGIN}")
    svg.attrib.update(width=f"{width + 2 * MARGIN:g}", height=f"{height + 2 * MARGIN:g}")
    style = ElementTree.Element("style")
    style.text = STYLE
    svg.insert(0, style)
    return data_uri(ElementTree.tostring(svg, encoding="utf-8"), "image/svg+xml")
