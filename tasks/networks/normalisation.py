"""How a network wants its pixels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """What a backbone was trained on: `(RGB, or BGR) * scale + bias`, channel by channel, from pixels of 0..255.

    The same numbers as `keras.applications.<family>.preprocess_input`; a test compares them.
    """

    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bias: tuple[float, float, float] = (0.0, 0.0, 0.0)
    reverse_channels: bool = False
