"""The freeze boundaries of each backbone, by name: known without building a network, and so without TensorFlow."""

from __future__ import annotations

import difflib
import json
from functools import cache
from pathlib import Path

from tasks.config import POOLED
from tasks.errors import ConfigError
from tasks.networks.registry import get_backbone

# By backbone, the layers at which `tasks.networks.layers.boundaries` says that it can be cut, from below, whatever
# the size of its images. Layers that Keras names itself (`activation_3`) are left out: it counts them through the whole
# process, so that a name means another layer in the next one.
FILE = Path(__file__).with_name("boundaries.json")
NEAREST = 5


@cache
def known_boundaries(backbone: str) -> tuple[str, ...]:
    """The layers, from below, at which a backbone can be cut. Raises ConfigError for an unknown backbone."""
    return tuple(json.loads(FILE.read_text(encoding="utf-8"))[get_backbone(backbone).name])


def check_boundary(backbone: str, boundary: str) -> None:
    """Raises ConfigError, naming the nearest boundaries, where a backbone can't be cut there."""
    known = known_boundaries(backbone)
    if boundary == POOLED or boundary in known:
        return
    near = ", ".join(difflib.get_close_matches(boundary, known, n=NEAREST, cutoff=0))
    lower = get_backbone(backbone).boundary
    usual = f", or {lower} to train the top blocks, too" if lower else ""
    raise ConfigError(
        f"backbone.boundary: {backbone} can't be cut at {boundary!r}; the nearest of its {len(known)} boundaries: "
        f"{near}. Use {POOLED} to train the classifier alone{usual}"
    )
