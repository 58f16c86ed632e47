"""A text as a small picture, for pages that show items as pictures: its first lines on a square card, in SVG."""

from __future__ import annotations

import textwrap
from xml.sax.saxutils import escape

from tasks.modality.texts.content import tidy

SIDE = 200  # of the card's own units
MARGIN = 12
SMALL_PX = 120  # a card that is shown no larger has larger letters, and fewer
LETTERS, SMALL_LETTERS = 15, 25
WIDTH_OF_LETTER = 0.53  # as a share of the height, in the mean over English text in the fonts below
STYLE = (  # no ground of its own: it lies on the frame that a page has for pictures
    "text{font-family:system-ui,-apple-system,sans-serif;fill:#1c2024}"
    "@media(prefers-color-scheme:dark){text{fill:#e6e8eb}}"
)


def text_card(text: str, side_px: int) -> bytes:
    """The card of a text that is shown `side_px` wide; what does not fit ends with '…'."""
    size = SMALL_LETTERS if side_px <= SMALL_PX else LETTERS
    step, room = round(1.35 * size), SIDE - 2 * MARGIN
    lines = textwrap.wrap(tidy(text), int(room / (WIDTH_OF_LETTER * size)), max_lines=room // step, placeholder=" …")
    top = (SIDE - step * len(lines)) / 2 + size
    drawn = "".join(
        f'<text x="{MARGIN}" y="{top + step * place:g}">{escape(line)}</text>' for place, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}" width="{side_px}" height="{side_px}">'
        f'<style>{STYLE}</style><g font-size="{size}">{drawn}</g></svg>'
    ).encode()
