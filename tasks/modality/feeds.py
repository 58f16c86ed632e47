"""What a graph is given of items: its inputs by name, each with the items along its first dimension."""

from __future__ import annotations

import numpy as np

Feed = dict[str, np.ndarray]

# The inputs of a model.onnx by the kind of its items: `image` uint8 [N, H, W, 3] RGB; or the tokens of texts,
# `input_ids` and `attention_mask` (1 at a token, 0 behind the end), both int64 [N, T].
INPUTS = {"image": ("image",), "text": ("input_ids", "attention_mask")}


def feed_of_image(pixels: np.ndarray) -> Feed:
    """One image, uint8 [H, W, 3], as the input of a graph."""
    return {"image": pixels[None]}
