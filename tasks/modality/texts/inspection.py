"""Properties of one text, from its bytes: length, script, letters, and what finds its near-duplicates.

As for images, an inspection is a function of the bytes, so it is stored under their digest and never made twice.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa

from tasks.errors import DecodeError
from tasks.modality.texts.content import decode_text, tidy, words_of
from tasks.modality.texts.shingles import minhash
from tasks.storage.part_store import PartStore
from tasks.storage.tables import TEXT_FACTS
from tasks.workspace import Workspace

# Raise this whenever a value below is computed differently: rows of other versions are then ignored.
INSPECTOR = 1

SCHEMA = pa.schema([("sha256", pa.string()), ("inspector", pa.int16()), *TEXT_FACTS])


@dataclass(frozen=True, slots=True)
class TextInspection:
    """The properties of one text."""

    characters: int = 0
    words: int = 0
    script: str = ""  # of most of its letters, as Unicode names it: LATIN, CYRILLIC, CJK; empty without letters
    script_share: float = 0.0  # of its letters, those of that script
    letters: float = 0.0  # share of letters and digits among the characters that are no white space
    same_words: bytes = b""  # digest of its words alone: equal where two texts differ in case and punctuation only
    minhash: bytes = b""
    fault: str | None = None


def inspection_store(workspace: Workspace) -> PartStore:
    return PartStore(workspace, "text_inspections", SCHEMA, key=("sha256", "inspector"))


def inspect(content: bytes, max_characters: int) -> TextInspection:
    """Inspects one text; what is wrong with it is returned in `fault`, not raised."""
    try:
        text = tidy(decode_text(content, max_characters))
    except DecodeError as exc:
        return TextInspection(fault=str(exc))
    words = words_of(text)
    scripts = Counter(_script(character) for character in text if character.isalpha())
    script, count = scripts.most_common(1)[0] if scripts else ("", 0)
    seen = [character for character in text if not character.isspace()]
    return TextInspection(
        characters=len(text),
        words=len(words.split()),
        script=script,
        script_share=count / max(scripts.total(), 1),
        letters=sum(map(str.isalnum, seen)) / len(seen),
        # Without a word, a text is compared as it is.
        same_words=hashlib.sha256((words or text).encode()).digest()[:16],
        minhash=minhash(words),
    )


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """The script of a letter: the first word of its name in Unicode."""
    return unicodedata.name(letter, "UNKNOWN").split(" ", 1)[0]
