"""A million images for real: two retrains of a large source, whole processes, from listing to the report.

    uv run python -m tests.benchmarks.million                    1,000,000 images, then 1 % more
    uv run python -m tests.benchmarks.million --images 50000 --folder FOLDER

The images are JPEGs of 64 pixels made by formula: a smooth random pattern each, so that no two are alike, over that of
its class. They are embedded by the backbone that headstart ships. FOLDER takes 4 KB an image, and 14 KB for what the
retrain keeps; images that are there already are not made again. Prints one JSON object for each retrain.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.networks.onnx_session import available_cores
from tests.benchmarks.processes import environment
from tests.benchmarks.retrain import headstart

CLASSES = 10
SIDE_PX = 64
COARSE_PX = 6  # of the random pattern, before it is smoothed: enough that perceptual hashes differ
CLASS_SHARE = 0.4
QUALITY = 85
NEW_SHARE = 0.01
CHUNK_IMAGES = 10_000


@dataclass(frozen=True)
class Cost:
    """One retrain; `bytes` of what the workspace holds after it, by folder."""

    images: int
    new: int
    verdict: str
    seconds: float
    processor_s: float
    peak_rss_mb: int
    peak_anonymous_mb: int
    timings_s: dict[str, float]
    bytes: dict[str, int]


def image_of(number: int) -> bytes:
    """The JPEG of a number: of its own random pattern, and of that of its class (`number % CLASSES`)."""
    image = Image.blend(_pattern(number + CLASSES), _pattern(number % CLASSES), CLASS_SHARE)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _pattern(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (COARSE_PX, COARSE_PX, 3), np.uint8)
    return Image.fromarray(coarse).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)


def make_chunk(source: Path, first: int, count: int) -> None:
    """Images `first` to `first + count`, a folder a class."""
    for label in range(CLASSES):
        (source / f"class-{label}").mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        path = source / f"class-{number % CLASSES}" / f"{number:08d}.jpg"
        if not path.exists():
            path.write_bytes(image_of(number))


def make_images(source: Path, first: int, count: int) -> None:
    starts = range(first, first + count, CHUNK_IMAGES)
    counts = [min(CHUNK_IMAGES, first + count - start) for start in starts]
    with ProcessPoolExecutor(available_cores()) as pool:
        list(pool.map(make_chunk, [source] * len(starts), starts, counts))


def retrain(source: Path, workspace: Path, env: dict[str, str], settings: list[str]) -> Cost:
    answer = headstart(source, workspace, env, ["--backbone", "embedded", *settings])
    images = answer.printed["images"]
    return Cost(
        images=images["total"],
        new=images["new"],
        verdict=answer.printed["verdict"],
        seconds=round(answer.seconds, 1),
        processor_s=round(answer.processor_s, 1),
        peak_rss_mb=answer.peak_rss_mb,
        peak_anonymous_mb=answer.peak_anonymous_mb,
        timings_s=answer.printed["timings_s"],
        bytes={folder.name: _bytes(folder) for folder in sorted(workspace.iterdir()) if folder.is_dir()},
    )


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument(
        "--folder", type=Path, help="where images and workspace lie; kept, so that it can be used again"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to `retrain`")
    given = parser.parse_args(arguments)
    settings = [part for value in given.set for part in ("--set", value)]
    with tempfile.TemporaryDirectory(prefix="headstart-million-") as aside:
        folder = given.folder or Path(aside)
        env = environment(Path(aside) / "prefect")
        for first, count in ((0, given.images), (given.images, round(NEW_SHARE * given.images))):
            make_images(folder / f"images-{given.images}", first, count)
            cost = retrain(folder / f"images-{given.images}", folder / f"workspace-{given.images}", env, settings)
            print(json.dumps(asdict(cost)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
