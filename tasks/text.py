"""Text of others (names of files and classes, reasons, requests) as it is safe to show."""

from __future__ import annotations

# What a terminal or a page would obey instead of showing it: control characters (C0, DEL, C1), separators of lines and
# paragraphs, overrides of the direction of writing (Unicode TR 36), and halves of surrogate pairs, which are what
# Python reads of a file name that is not UTF-8 and can't be encoded at all.
_SHOWN = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "\u2421"}  # the pictures of control characters
_ESCAPED = (*range(0x80, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000))
_VISIBLE = _SHOWN | {code: f"\\u{code:04x}" for code in _ESCAPED}
_VISIBLE_LINES = {code: shown for code, shown in _VISIBLE.items() if chr(code) not in "\n\t"}


def visible(text: str) -> str:
    """One line of text whose control characters can be seen: 'a\x1b[2Jb' as 'a␛[2Jb'."""
    return text.translate(_VISIBLE)


def visible_lines(text: str) -> str:
    """The same for a text of several lines: line breaks and tabs stay."""
    return text.translate(_VISIBLE_LINES)
