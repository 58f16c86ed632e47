"""Why a published model says what it says of a text: how much each word speaks for its class, and the training texts
that it finds most similar."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from tasks.errors import DecodeError
from tasks.modality.items import uri_of_text
from tasks.modality.texts.content import decode_text, tidy
from tasks.pool.attribution import TextAttributor
from tasks.pool.cut import CutModel
from tasks.pool.explanation import Explanation, familiarity_of, likeliest, nearest_training
from tasks.pool.training import training_items
from tasks.records import Run


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
    attribute = TextAttributor(model, run.config.extract.workers)
    seen = [attribute(text) for text in good]
    rows = np.stack([each.row for each in seen])
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in good]
    near = nearest_training(run, model, training_items(run.workspace, model), digests, rows)
    return [
        Explanation(
            image=uri_of_text(text),
            width_px=0,
            height_px=0,
            classes=likeliest(model, each.probabilities),
            heat=None,
            words=each.words,
            near=near_ones,
            familiarity=share,
        )
        for text, each, near_ones, share in zip(good, seen, near, familiarity_of(model, rows), strict=True)
    ], faults
