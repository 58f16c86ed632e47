"""Bytes to text, and the forms in which texts are compared."""

from __future__ import annotations

import re
import unicodedata

from tasks.errors import DecodeError

MAX_CHARACTERS = 100_000  # the default of ingest.max_characters
_SPACE = re.compile(r"\s+")
_NOT_WORD = re.compile(r"[^\w]+")


def decode_text(content: bytes, max_characters: int = MAX_CHARACTERS) -> str:
    """The text of an item: UTF-8, with or without a byte order mark.

    Raises:
        DecodeError: other bytes, a text of more characters than allowed, or one without any that can be seen.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise DecodeError(f"not UTF-8: byte {exc.start} is {content[exc.start]:#04x}; save it as UTF-8") from None
    if len(text) > max_characters:
        raise DecodeError(f"{len(text)} characters are more than the {max_characters} allowed (ingest.max_characters)")
    if "\0" in text:
        raise DecodeError("it holds a NUL character: not a text")
    if not tidy(text):
        raise DecodeError("it is empty")
    return text


def tidy(text: str) -> str:
    """A text in Unicode's composed form, its white space single: so two rows that differ in nothing else are copies."""
    return _SPACE.sub(" ", unicodedata.normalize("NFC", text)).strip()


def words_of(text: str) -> str:
    """The words of a text alone, in small letters: what near-duplicates share. (NFKC: 'ﬁ' is 'fi', '２' is '2'.)"""
    return _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def shortened(text: str, characters: int) -> str:
    """The beginning of a text, on one line."""
    line = tidy(text)
    return line if len(line) <= characters else line[: characters - 1].rstrip() + "…"
