"""Makes a dirty copy of a source with given splits, by a seed, and remembers what it planted.

    uv run python -m tests.dirty ../shared/data/clothing /tmp/dirty

copies `train/` and `validation/` and then plants: files that are no usable image, exact copies and near-duplicates
across the splits, flipped labels, and odd files that have to be accepted or passed over.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from tests import photos

SPLITS = ("train", "validation")
SUFFIXES = {".jpg", ".jpeg"}


@dataclass
class Planted:
    """What is wrong, by path relative to the copy."""

    corrupt: list[str] = field(default_factory=list)
    exact: list[tuple[str, str]] = field(default_factory=list)  # (copy, original)
    near: list[tuple[str, str, str]] = field(default_factory=list)  # (copy, original, how)
    flipped: dict[str, str] = field(default_factory=dict)  # path: the true label
    odd: list[str] = field(default_factory=list)  # unusual, and to be accepted
    litter: list[str] = field(default_factory=list)


def make_dirty(
    source: Path,
    target: Path,
    *,
    seed: int = 7,
    corrupt: float = 0.02,
    exact: float = 0.02,
    near: float = 0.03,
    flipped: float = 0.05,
) -> Planted:
    """Copies `source` to `target` and plants the given shares of each fault, each in images of its own."""
    rng = np.random.default_rng(seed)
    shutil.copytree(source, target)
    clean = sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.suffix.lower() in SUFFIXES)
    drawn = [clean[i] for i in rng.permutation(len(clean))]
    planted = Planted()
    for path in _take(drawn, corrupt, clean):
        _corrupt(target / path, rng)
        planted.corrupt.append(path)
    for path in _take(drawn, exact, clean):
        copy = _elsewhere(path, "copy")
        shutil.copy(target / path, target / copy)
        planted.exact.append((copy, path))
    for path in _take(drawn, near, clean):
        how = str(rng.choice(list(NEAR)))
        copy = _elsewhere(path, how)
        with Image.open(target / path) as image:
            NEAR[how](image.convert("RGB"), rng).save(target / copy, quality=int(rng.integers(60, 92)))
        planted.near.append((copy, path, how))
    labels = sorted({path.split("/")[1] for path in clean})
    for path in _take(drawn, flipped, clean):
        split, label, name = path.split("/")
        wrong = f"{split}/{rng.choice([other for other in labels if other != label])}/{name}"
        (target / path).rename(target / wrong)
        planted.flipped[wrong] = label
    _add_odd_files(target / "train" / labels[0], planted)
    return planted


def _take(drawn: list[str], share: float, clean: list[str]) -> list[str]:
    taken = [drawn.pop() for _ in range(round(share * len(clean)))]
    return taken


def _elsewhere(path: str, suffix: str) -> str:
    """The place of a copy: the same class in the other split."""
    split, label, name = path.split("/")
    other = SPLITS[1 - SPLITS.index(split)]
    return f"{other}/{label}/{Path(name).stem}-{suffix}.jpg"


def _corrupt(path: Path, rng: np.random.Generator) -> None:
    content = path.read_bytes()
    kinds = [
        lambda: content[: int(len(content) * rng.uniform(0.1, 0.98))],
        lambda: b"",
        lambda: b"<html>404 Not Found</html>\n" * 40,
        lambda: rng.bytes(len(content)),
        lambda: content[:2] + rng.bytes(len(content) - 2),
    ]
    path.write_bytes(kinds[rng.integers(len(kinds))]())


def _recompressed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return Image.open(_jpeg(image, quality=int(rng.integers(25, 50))))


def _resized(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    scale = rng.uniform(0.4, 0.8)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def _cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Loses up to 5 % at each side."""
    left, top, right, bottom = rng.uniform(0, 0.05, 4)
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
    )


def _mirrored(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.mirror(_cropped(image, rng))


def _brightness(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(rng.choice([rng.uniform(0.6, 0.85), rng.uniform(1.15, 1.4)]))


NEAR: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "recompressed": _recompressed,
    "resized": _resized,
    "cropped": _cropped,
    "mirrored": _mirrored,
    "brightness": _brightness,
}


def _jpeg(image: Image.Image, quality: int):
    import io

    return io.BytesIO(photos.encoded(image, quality=quality))


def _add_odd_files(folder: Path, planted: Planted) -> None:
    odd = {
        "deep 16 bit.png": photos.sixteen_bit_png(),
        "palette.png": photos.palette_png(),
        "cmyk.jpg": photos.cmyk_jpeg(),
        "turned.jpg": photos.turned_jpeg(),
        "moving.gif": photos.animated_gif(),
        "modern.webp": photos.webp(),
        "Grüße \"quoted\" & 'single' 日本.jpg": photos.encoded(photos.photo(99)),
    }
    for name, content in odd.items():
        (folder / name).write_bytes(content)
        planted.odd.append("/".join((*folder.parts[-2:], name)))
    for name in (".DS_Store", "Thumbs.db"):
        (folder / name).write_bytes(b"litter")
        planted.litter.append("/".join((*folder.parts[-2:], name)))


if __name__ == "__main__":
    made = make_dirty(Path(sys.argv[1]), Path(sys.argv[2]))
    print({name: len(getattr(made, name)) for name in made.__dataclass_fields__})
