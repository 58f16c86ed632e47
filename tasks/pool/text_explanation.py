"""Why a published model says what it says of a text: how much each word speaks for its class, and the training texts
that it finds most similar."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from tasks.errors import DecodeError
from tasks.modality.items import uri_of_text
from tasks.modality.texts.content import decode_text, tidy
from tasks.networks.onnx_session import open_model
from tasks.networks.text_batches import run_texts
from tasks.pool.cut import CutModel, Head
from tasks.pool.explanation import Explanation, likeliest, nearest_training, training_items
from tasks.records import Run

MAX_WORDS = 200  # that are left out in turn; those behind are shown without a weight


def explain_texts(run: Run, model: CutModel, texts: Sequence[str]) -> tuple[list[Explanation], dict[str, str]]:
    """An explanation for each text, in the given order, and why others can't be used.

    A word's weight is how far the log-odds of the class fall without it.
    """
    good, faults = [], {}
    for text in dict.fromkeys(texts):
        try:
            good.append(tidy(decode_text(text.encode(), run.config.ingest.max_characters)))
        except (DecodeError, UnicodeEncodeError) as exc:
            faults[text] = str(exc)
    if not good:
        return [], faults
    versions = [_versions(text) for text in good]
    rows = _rows(run, model, [version for each in versions for version in each])
    found = Head(model).predict(rows)
    starts = np.cumsum([0, *map(len, versions)])
    whole = starts[:-1]
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in good]
    near = nearest_training(run, model, training_items(run, model), digests, rows[whole])
    return [
        Explanation(
            image=uri_of_text(text),
            width_px=0,
            height_px=0,
            classes=likeliest(model, found.probabilities[start]),
            heat=None,
            words=_weighted(text, found.probabilities[start:stop]),
            near=near_ones,
            familiarity=None if found.familiarity is None else float(found.familiarity[start]),
        )
        for text, start, stop, near_ones in zip(good, whole, starts[1:], near, strict=True)
    ], faults


def _versions(text: str) -> list[str]:
    """The text, and then without each of its words in turn."""
    words = text.split(" ")
    if len(words) == 1:
        return [text]
    return [text, *(" ".join(words[:at] + words[at + 1 :]) for at in range(min(len(words), MAX_WORDS)))]


def _rows(run: Run, model: CutModel, texts: Sequence[str]) -> np.ndarray:
    """What the head takes of each text, float32 [N, D]."""
    assert model.tokens
    tokens = [model.tokens.ids(text) for text in texts]
    return np.stack([row for [row] in run_texts(open_model(model.body), [model.output], tokens)])


def _weighted(text: str, probabilities: np.ndarray) -> tuple[tuple[str, float], ...]:
    """(word, weight) of a text.

    Args:
        probabilities: of the text, and then without each word, float [1 + W, C].
    """
    share = np.clip(probabilities[:, probabilities[0].argmax()].astype(np.float64), 1e-9, 1 - 1e-9)
    odds = np.log(share / (1 - share))
    words, falls = text.split(" "), odds[0] - odds[1:]
    return tuple((word, float(falls[at]) if at < len(falls) else 0.0) for at, word in enumerate(words))
