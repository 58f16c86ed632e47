"""New photographs made of those that are there, by a seed: other content, the same size and label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

SUFFIXES = {".jpg", ".jpeg", ".png"}
QUALITY = 90


def photographs(folder: Path) -> list[Path]:
    """Every photograph below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def drawn(files: list[Path], count: int, seed: int) -> list[Path]:
    """At most `count` of the files; of two draws by one seed the smaller lies in the larger."""
    order = np.random.default_rng(seed).permutation(len(files))
    return [files[place] for place in order[:count]]


def save_changed(original: Path, target: Path, seed: int) -> Path:
    """Saves a part of a photograph (85 to 95 % of each side), at the original size, a little brighter or darker."""
    rng = np.random.default_rng(seed)
    with Image.open(original) as opened:
        image = opened.convert("RGB")
    width, height = (round(side * rng.uniform(0.85, 0.95)) for side in image.size)
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    part = image.resize(image.size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    target.parent.mkdir(parents=True, exist_ok=True)
    ImageEnhance.Brightness(part).enhance(rng.uniform(0.85, 1.15)).save(target, "JPEG", quality=QUALITY)
    return target
