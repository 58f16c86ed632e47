"""Our own sentences say 'images'; of texts the same ones say 'texts'."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from tasks.records import GateResult

# No part of a path, a key, an option or a quoted name.
_ITEM = re.compile(
    r"(?<![\w/.'\"`-])(?:(a)n )?(image|photograph|picture|photo)(s?)(?![\w/'\"`-])(?!\.\w)", re.IGNORECASE
)
_CODE_OR_TAG = re.compile(r"(\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}|<[^>]*>)", re.DOTALL)


def worded(sentence: str, task: str, names: Iterable[str] = ()) -> str:
    """A sentence of ours for the items of a task.

    Args:
        names: the user's own words that may be in it, such as classes: where one of them says 'image', it stays as it
            is.
    """
    if task == "image" or any(_ITEM.search(name) for name in names):
        return sentence
    return _ITEM.sub(_for_text, sentence)


def worded_gate(gate: GateResult, task: str, names: Iterable[str]) -> GateResult:
    """What a gate says, for the items of a task."""
    said = {field: worded(getattr(gate, field), task, names) for field in ("reason", "evidence", "unit")}
    return replace(gate, **said)


def worded_template(source: str, task: str) -> str:
    """A template's own words, and none of its expressions and tags, for the items of a task."""
    parts = _CODE_OR_TAG.split(source)
    return "".join(part if number % 2 else worded(part, task) for number, part in enumerate(parts))


def _for_text(found: re.Match[str]) -> str:
    article, word, plural = found[1], found[2], found[3]
    text = "Text" if word[0].isupper() else "text"
    return f"{article} " * bool(article) + (text.upper() if word.isupper() else text) + plural
