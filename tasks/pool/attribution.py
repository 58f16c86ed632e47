"""What speaks for a model's class: of a photograph the heat map, of a text its words.

It needs ONNX Runtime and onnx alone, so the server can do it, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.networks.occlusion import Occlusion
from tasks.networks.onnx_session import open_model
from tasks.networks.text_batches import run_texts
from tasks.pool.cut import CutModel, Head

MAX_WORDS = 200  # that are left out in turn; those behind are shown without a weight


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """What a model says of one item, and why.

    `probabilities` are float32 [C]; `row` is what the head takes, float32 [D]; `heat` is as `Occlusion.heat` gives it
    for the likeliest class, None of a text and where the model has no maps; `words` are those of a text, with how far
    the log-odds of the class fall without each.
    """

    probabilities: np.ndarray
    row: np.ndarray
    heat: np.ndarray | None = None
    words: tuple[tuple[str, float], ...] = ()


class ImageAttributor:
    """Attributes photographs. Safe to call from several threads."""

    def __init__(self, model: CutModel, typical: Sequence[str], max_pixels: int) -> None:
        """
        Args:
            typical: URIs of training photographs in random order: the first few that can be read say what a spot that
                goes missing is filled with.
            max_pixels: of such a photograph, decoded.
        """
        self._occlusion = Occlusion(model.whole, model.output)
        self._typical = self._occlusion.typical_of(typical, max_pixels=max_pixels)

    def __call__(self, pixels: np.ndarray) -> Attribution:
        """One pass of an image, uint8 [H, W, 3], and a few dozen evaluations of the layers above its last maps."""
        look = self._occlusion.look(pixels)
        best = int(look.probabilities.argmax())
        heat = self._occlusion.heat(look, best, self._typical) if self._occlusion.has_maps else None
        return Attribution(probabilities=look.probabilities, row=look.row, heat=heat)


class TextAttributor:
    """Attributes texts. Safe to call from several threads."""

    def __init__(self, model: CutModel, workers: int = 0) -> None:
        """
        Args:
            workers: threads; 0 takes one for each core.
        """
        assert model.tokens
        self._tokens, self._output, self._workers = model.tokens, model.output, workers
        self._body, self._head = open_model(model.body), Head(model)

    def __call__(self, text: str) -> Attribution:
        """One pass of a text, its white space single, and one without each of its words."""
        tokens = [self._tokens.ids(version) for version in _versions(text)]
        rows = np.stack([row for [row] in run_texts(self._body, [self._output], tokens, self._workers)])
        probabilities = self._head.probabilities(rows)
        return Attribution(probabilities=probabilities[0], row=rows[0], words=_weighted(text, probabilities))


def _versions(text: str) -> list[str]:
    """The text, and then without each of its words in turn."""
    words = text.split(" ")
    if len(words) == 1:
        return [text]
    return [text, *(" ".join(words[:at] + words[at + 1 :]) for at in range(min(len(words), MAX_WORDS)))]


def _weighted(text: str, probabilities: np.ndarray) -> tuple[tuple[str, float], ...]:
    """(word, weight) of a text.

    Args:
        probabilities: of the text, and then without each word, float [1 + W, C].
    """
    share = np.clip(probabilities[:, probabilities[0].argmax()].astype(np.float64), 1e-9, 1 - 1e-9)
    odds = np.log(share / (1 - share))
    words, falls = text.split(" "), odds[0] - odds[1:]
    return tuple((word, float(falls[at]) if at < len(falls) else 0.0) for at, word in enumerate(words))
