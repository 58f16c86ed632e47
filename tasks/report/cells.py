"""Cells of Markdown tables: safe to show, and broken into lines where a page does not break them itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tasks.display import visible

# What a row of a table has room for on the page of an artifact in Prefect that is 1,400 px wide: 828 px, in letters of
# 7.1 px. Cells there never break by themselves, and a wider table is cut off.
LETTERS = 114
PADDING = 3.5  # of a cell, in letters
LEAST = 10  # letters of a line; narrower columns can't be read
_PIECE = re.compile(r"[^ \n_/\\-]*[ \n_/\\-]*")  # a line may end behind a space, an underscore, a slash or a hyphen


def escape(value: Any) -> str:
    """A user's text, safe inside a line or a table cell of markdown, and inert as HTML."""
    flat = visible(re.sub(r"\s+", " ", str(value)))
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|#~])", r"\\\1", flat)


def escaped(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[list[str]]:
    """The cells of a table's rows, each in one line."""
    return [[escape(cell) for cell in row] for row in rows]


def narrowed(head: Sequence[Any], rows: Sequence[Sequence[Any]], letters: float = LETTERS) -> list[list[str]]:
    """The same, with line breaks in the widest columns, so that the table has at most so many letters in a row.

    Args:
        head: the columns' names.
        letters: see LETTERS; fewer where there are further columns.
    """
    widths = [max(len(str(cell)) for cell in column) for column in zip(head, *rows, strict=True)]
    room = letters - PADDING * len(widths)
    most = max(widths, default=0)
    while most > LEAST and sum(min(width, most) for width in widths) > room:
        most -= 1
    return [["<br>".join(map(escape, lines(str(cell), most))) for cell in row] for row in rows]


def lines(text: str, letters: int) -> list[str]:
    """A text in lines of at most so many letters; a word that is longer has a line of its own."""
    found = [""]
    for piece in filter(None, _PIECE.findall(text)):
        if found[-1] and len(found[-1] + piece.rstrip()) > letters:
            found.append("")
        found[-1] += piece
    return [line.rstrip() for line in found]
