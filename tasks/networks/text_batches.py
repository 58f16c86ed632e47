"""Batches of texts that change nothing: those with the very same number of tokens.

No token is padding then, so none is computed for nothing, and ONNX Runtime gives each text the same bits as alone (its
matrix products add up a row in one order, however many rows there are): a run that is resumed, and a server that
answers one text, come to the same numbers. On 1,500 questions (15 tokens in the mean) with a distilled BERT of six
blocks, batches of 256 tokens took half of the time of single texts, and no more than batches of 8 to 32 texts that were
sorted by length and padded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from tasks.modality.texts.tokens import feed_of
from tasks.networks.onnx_session import available_cores

if TYPE_CHECKING:
    import onnxruntime as ort

BATCH_TOKENS = 256


def batches(lengths: Sequence[int]) -> list[list[int]]:
    """Places of texts of one length each, in batches of about BATCH_TOKENS tokens, the shortest first.

    Args:
        lengths: the number of tokens of each text.
    """
    of_length: dict[int, list[int]] = defaultdict(list)
    for place, length in enumerate(lengths):
        of_length[length].append(place)
    found = []
    for length, places in sorted(of_length.items()):
        size = max(1, BATCH_TOKENS // length)
        found += [places[start : start + size] for start in range(0, len(places), size)]
    return found


def run_texts(
    session: ort.InferenceSession,
    outputs: Sequence[str],
    tokens: Sequence[np.ndarray],
    workers: int = 0,
) -> list[list[np.ndarray]]:
    """Each output of each text, in the order of `tokens`, on `workers` threads (0: one for each core).

    Args:
        tokens: int64 [T] of each text.
    """
    found: list[list[np.ndarray]] = [[] for _ in tokens]
    parts = batches([len(each) for each in tokens])

    def run(places: list[int]) -> list[np.ndarray]:
        return [np.asarray(each) for each in session.run(list(outputs), feed_of([tokens[place] for place in places]))]

    with ThreadPoolExecutor(workers or available_cores(), thread_name_prefix="texts") as pool:
        for places, values in zip(parts, pool.map(run, parts), strict=True):
            for at, place in enumerate(places):
                found[place] = [each[at] for each in values]
    return found
