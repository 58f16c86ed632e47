"""The templates of pages, in the report's own style."""

from __future__ import annotations

import re
from functools import cache, partial

import jinja2
from jinja2.ext import Extension
from markupsafe import Markup, escape

from tasks.modality.wording import worded, worded_template
from tasks.report.numbers import amount, bounds_in, count, duration, figure, percent, points, rule_of


class TextWords(Extension):
    """The templates' own words, of texts in place of images."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return worded_template(source, "text")


@cache
def page_environment(package: str, task: str) -> jinja2.Environment:
    """HTML templates of a package, and behind them the report's; every string of the user's is escaped.

    Args:
        task: whose items the page is about, `image` or `text`.
    """
    rooms = dict.fromkeys((package, "tasks.report"))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(room) for room in rooms]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[TextWords] if task == "text" else [],
    )
    numbers = (percent, count, figure, duration, points, amount, bounds_in, rule_of)
    environment.filters.update({each.__name__: each for each in (*numbers, breakable)})
    environment.filters["worded"] = partial(worded, task=task)  # for what stands in an expression
    return environment


def breakable(name: str) -> Markup:
    """A name that may go on in the next line behind each underscore, and not within a word."""
    return Markup("<wbr>").join(escape(part) for part in re.split("(?<=_)(?=[^_])", str(name)))
