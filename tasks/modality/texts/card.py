"""A text as a small picture, for pages that show items as pictures: its first lines on a card, in SVG."""

from __future__ import annotations

import textwrap
from xml.sax.saxutils import escape

from tasks.modality.texts.content import tidy

LINE_CHARACTERS = 24
MAX_LINES = 9
FONT_PX, LINE_PX, MARGIN_PX = 13, 19, 14
WIDTH_PX = 200
STYLE = (
    "rect{fill:#f4f5f7}text{font:13px system-ui,-apple-system,sans-serif;fill:#1c2024}"
    "@media(prefers-color-scheme:dark){rect{fill:#24282d}text{fill:#e6e8eb}}"
)


def text_card(text: str) -> bytes:
    """The card of a text; what does not fit ends with '…'."""
    lines = textwrap.wrap(tidy(text), LINE_CHARACTERS, max_lines=MAX_LINES, placeholder=" …")
    height = 2 * MARGIN_PX + LINE_PX * max(len(lines), 1)
    drawn = "".join(
        f'<text x="{MARGIN_PX}" y="{MARGIN_PX + FONT_PX + LINE_PX * place}">{escape(line)}</text>'
        for place, line in enumerate(lines)
    )
    size = f'viewBox="0 0 {WIDTH_PX} {height}" width="{WIDTH_PX}" height="{height}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>'
        f'<rect width="{WIDTH_PX}" height="{height}" rx="8"/>{drawn}</svg>'
    ).encode()
