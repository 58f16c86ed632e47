"""Text to tokens, by the tokenizer.json of an encoder (the library tokenizers): what a model.onnx for texts takes."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from tasks.errors import DamagedFileError
from tasks.modality.feeds import Feed
from tasks.modality.texts.content import MAX_CHARACTERS, decode_text, tidy

MAX_BYTES = 64 << 20  # of a tokenizer.json: vocabularies of 250,000 words take 17 MB


class Tokens:
    """A tokenizer, safe to call from any number of threads."""

    def __init__(self, content: bytes, max_tokens: int, max_characters: int = MAX_CHARACTERS) -> None:
        """
        Args:
            content: the bytes of tokenizer.json.
            max_tokens: what is longer is cut off behind so many.

        Raises:
            DamagedFileError: not a tokenizer.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would fill cores that are full
        from tokenizers import Tokenizer

        if len(content) > MAX_BYTES:
            raise DamagedFileError(f"tokenizer.json has {len(content)} bytes; at most {MAX_BYTES} are allowed")
        try:
            self._tokenizer = Tokenizer.from_str(content.decode())
        except Exception as exc:  # the library raises bare exceptions
            raise DamagedFileError(f"tokenizer.json is no tokenizer: {exc}") from exc
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._max_characters = max_characters

    def ids(self, text: str) -> np.ndarray:
        """The tokens of a text, int64 [T], at least one."""
        return np.array(self._tokenizer.encode(tidy(text)).ids or [0], np.int64)

    def read(self, content: bytes) -> np.ndarray:
        """The tokens of an item's bytes, int64 [T]. Raises DecodeError."""
        return self.ids(decode_text(content, self._max_characters))


def feed_of(rows: Sequence[np.ndarray]) -> Feed:
    """Texts of equal length as the inputs of a graph: `input_ids` and `attention_mask`, int64 [N, T].

    Args:
        rows: the tokens of each text, int64 [T].
    """
    ids = np.stack(rows)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}
