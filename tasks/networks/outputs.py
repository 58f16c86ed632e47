"""What a model.onnx gives for an image."""

from __future__ import annotations

PROBABILITIES = "probabilities"  # float32 [N, C]
LABEL = "label"  # string [N]
FAMILIARITY = "familiarity"  # float32 [N] in 0..1; models of older releases have none
FAMILIARITY_POOLED = f"{FAMILIARITY}/pooled"  # of activations: the value that it follows from, beside the logits
OUTPUTS = (PROBABILITIES, LABEL, FAMILIARITY)
THRESHOLD = 0.5  # from which on an image is familiar
