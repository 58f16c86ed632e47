"""Makes small real image files, the good and the odd, for tests; nothing here is a mock."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

SHARED_CLOTHING = Path(__file__).parents[2] / "shared" / "data" / "clothing"


def photo(seed: int, size: tuple[int, int] = (48, 36), hue: int = 0) -> Image.Image:
    """A picture with the coarse shapes and the fine grain of a photograph, RGB; equal arguments give equal pixels.

    `hue` (0..5) tints it, so that classes made of different hues can be told apart.
    """
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = rng.normal(0, 6, (size[1], size[0], 3))
    tint = np.array([(60, 0, 0), (0, 60, 0), (0, 0, 60), (60, 60, 0), (0, 60, 60), (60, 0, 60)][hue % 6])
    pixels = np.asarray(coarse, dtype=np.float32) * 0.7 + grain + tint
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def save(path: Path, image: Image.Image, **options) -> Path:
    """Saves as the suffix says, making the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def class_folders(root: Path, counts: dict[str, int], start: int = 0) -> Path:
    """`counts[label]` different JPEGs in a folder for each label; `start` shifts the seeds, for a later batch."""
    for place, (label, count) in enumerate(sorted(counts.items())):
        for index in range(start, start + count):
            save(root / label / f"{index:05d}.jpg", photo(seed=place * 100_000 + index, hue=place))
    return root


def truncated_jpeg() -> bytes:
    content = encoded(photo(1, size=(200, 150)))
    return content[: len(content) * 6 // 10]


def sixteen_bit_png() -> bytes:
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    return encoded(Image.fromarray(ramp), "PNG")


def palette_png() -> bytes:
    return encoded(photo(2).convert("P", palette=Image.Palette.ADAPTIVE), "PNG")


def cmyk_jpeg() -> bytes:
    return encoded(photo(3).convert("CMYK"))


def turned_jpeg(size: tuple[int, int] = (60, 40)) -> bytes:
    """Stored lying on its side, with an EXIF orientation that says so: upright it is `size` turned by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(photo(4, size=size), exif=exif)


def animated_gif() -> bytes:
    frames = [photo(5), photo(6)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)


def webp() -> bytes:
    return encoded(photo(7), "WEBP")
