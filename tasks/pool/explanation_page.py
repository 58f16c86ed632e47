"""The page of explanations: each photograph under its heat map, the likeliest classes, and its nearest training
photographs.

Self-contained, in the report's own style.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.display import visible_lines
from tasks.modality.images.heat_picture import heat_picture
from tasks.modality.items import shown
from tasks.pool.explanation import Explanation
from tasks.pool.page import NEAR_PX, page_environment
from tasks.records import Run
from tasks.report.thumbnails import data_uri, nearest_previews, previews

PICTURE_PX = 400
SHOWN = 200  # so that the page of a large folder stays small


def render_explanations(run: Run, version: str, explanations: Sequence[Explanation], faults: dict[str, str]) -> str:
    """The page's HTML; every string of the user's is escaped by the template engine.

    Args:
        faults: why images are left out, by path.
    """
    first = explanations[:SHOWN]
    pictures = previews((each.image for each in first), PICTURE_PX)
    small = previews((uri for each in first for uri, _ in each.near), NEAR_PX)
    return visible_lines(
        page_environment("tasks.pool", run.config.task)
        .get_template("explain.html.j2")
        .render(
            run=run,
            version=version,
            total=len(explanations),
            cards=[_card(each, pictures, small) for each in first],
            has_heat=any(each.heat is not None for each in first),
            faults=faults,
        )
    )


def _card(each: Explanation, pictures: dict[str, dict[str, str]], small: dict[str, dict[str, str]]) -> dict[str, Any]:
    heat = None if each.heat is None else heat_picture(each.heat, each.width_px, each.height_px)
    return {
        "image": shown(each.image),
        "words": _shaded(each.words),
        **pictures[each.image],
        "heat": heat and data_uri(heat, "image/png"),
        "classes": each.classes,
        "unfamiliar": each.familiar is False,
        "near": nearest_previews(each.near, small),
    }


def _shaded(words: Sequence[tuple[str, float]]) -> list[tuple[str, int]]:
    """The words of a text, each with the strength of its shade, 0 to 100: its weight as a share of the greatest."""
    most = max((weight for _, weight in words), default=0.0)
    return [(word, round(100 * max(weight, 0) / most) if most > 0 else 0) for word, weight in words]
