"""Changes that leave a text's meaning as it is: typing errors, other case, no punctuation."""

from __future__ import annotations

import hashlib
import string

import numpy as np

_WITHOUT = str.maketrans("", "", string.punctuation)


def with_typos(text: str, share: float) -> str:
    """A text with two neighbouring letters exchanged, or one left out, in a share of its words, those of four letters
    or more. Of a short text that is a chance: at 5 %, every second text of ten words has an error. The same text always
    gets the same ones."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
    words = text.split(" ")
    long = [place for place, word in enumerate(words) if len(word) >= 4]
    count = int(share * len(words) + rng.random())
    for place in rng.permutation(long)[:count].tolist():
        word = words[place]
        at = int(rng.integers(1, len(word) - 1))
        swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        words[place] = swapped if rng.integers(2) and swapped != word else word[:at] + word[at + 1 :]
    return " ".join(words)


def other_case(text: str) -> str:
    """Small letters; capitals where the text has no other letters than small ones."""
    return text.lower() if text != text.lower() else text.upper()


def without_punctuation(text: str) -> str:
    return text.translate(_WITHOUT) if text.translate(_WITHOUT).strip() else text
