"""Photographs as phones make them, 12 to 48 megapixels: from listing to features, against a bare decoder.

    KERAS_HOME=… uv run python -m tests.benchmarks.large PHOTOGRAPHS [--images 500] [--folder FOLDER]

PHOTOGRAPHS are enlarged, each with noise of its own, and saved as cameras save them (SHARES). Then, on all cores and in
a process of its own each: the ingest stage, the extraction with MobileNetV2, and, for the floor, Pillow alone: reading
the same files and decoding each once, at the reduced size that is enough, and at full size. Prints one JSON object.
FOLDER takes 3 GB for 500 images; those that are there already are not made again.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.config import parse_config
from tasks.extract.plan import DECODED_SCALE
from tasks.ingest.catalogue import build_catalogue
from tasks.networks.onnx_session import available_cores
from tasks.runs import new_run
from tests.benchmarks.copies import drawn, photographs
from tests.benchmarks.extraction import prepare
from tests.benchmarks.scale import in_a_process

SIZES_PX = {"12 MP": (4032, 3024), "24 MP": (5712, 4284), "48 MP": (8064, 6048)}
# Of 100 photographs: size, suffix, and how it is saved.
SHARES: list[tuple[int, str, str, dict[str, Any]]] = [
    (55, "12 MP", "jpg", {"quality": 90}),
    (20, "24 MP", "jpg", {"quality": 90}),
    (10, "48 MP", "jpg", {"quality": 90}),
    (10, "12 MP", "jpg", {"quality": 90, "progressive": True}),
    (3, "12 MP", "webp", {"quality": 85, "method": 2}),
    (2, "12 MP", "png", {"compress_level": 1}),
]
SETTINGS = [(size, suffix, saved) for count, size, suffix, saved in SHARES for _ in range(count)]
NOISE_PX, NOISE, STRIP_PX = 1024, 6, 512
BACKBONE = {"name": "mobilenet_v2"}
SIDE_PX = 224 * DECODED_SCALE


def make_large(original: Path, folder: Path, number: int) -> Path:
    """The photograph of a number: an enlarged one, in noise, in its class's folder."""
    size, suffix, saved = SETTINGS[number * 37 % len(SETTINGS)]  # 37: each hundred in another order than its classes
    path = folder / original.parent.name / f"{number:05d}.{suffix}"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(original) as opened:
        pixels = np.asarray(opened.convert("RGB").resize(SIZES_PX[size], Image.Resampling.BICUBIC))
    tile = np.random.default_rng(number).normal(0, NOISE, (STRIP_PX, NOISE_PX, 1)).astype(np.float32)
    noisy = np.empty_like(pixels)
    for top in range(0, len(pixels), STRIP_PX):  # in strips: 48 megapixels in float32 would be 580 MB
        strip = pixels[top : top + STRIP_PX]
        noise = np.tile(tile, (1, -(-strip.shape[1] // NOISE_PX), 1))[: len(strip), : strip.shape[1]]
        noisy[top : top + STRIP_PX] = np.clip(strip + noise, 0, 255)
    aside = path.with_name(f".{path.name}")
    Image.fromarray(noisy).save(aside, {"jpg": "JPEG"}.get(suffix, suffix), **saved)
    return aside.replace(path)


def costs(work: Callable[[], Any], images: int) -> dict[str, float]:
    """Seconds and processor seconds of `work`, and those of an image."""
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": round(seconds, 1),
        "processor_s": round(processor, 1),
        "processor_ms_per_image": round(1000 * processor / images, 1),
    }


def measure_ingest(source: Path, workspace: Path, images: int) -> dict[str, Any]:
    run = new_run(str(source), "large", str(workspace), parse_config({"backbone": BACKBONE}))
    return costs(lambda: build_catalogue(run), images)


def measure_embedding(source: Path, workspace: Path, images: int) -> dict[str, Any]:
    job = prepare(source, workspace, BACKBONE)
    return {"images": len(job.tasks), **costs(job.embed, images)}


def measure_decoder(files: Sequence[Path], side_px: int | None) -> dict[str, Any]:
    """Pillow alone: JPEGs reduced while they are decoded as long as both sides keep `side_px`; None: at full size."""

    def decode(path: Path) -> None:
        with Image.open(path) as image:
            if side_px:
                image.draft("RGB", (side_px, side_px))
            np.asarray(image.convert("RGB"))

    def every() -> None:
        with ThreadPoolExecutor(available_cores()) as pool:
            list(pool.map(decode, files))

    return costs(every, len(files))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args(arguments)
    originals = drawn(photographs(given.photographs / "train"), given.images, seed=0)
    if not originals:
        parser.error(f"{given.photographs / 'train'} holds no photographs")
    with tempfile.TemporaryDirectory(prefix="headstart-large-", dir=given.folder) as aside:
        source = (given.folder or Path(aside)) / f"large-{given.images}"
        with ProcessPoolExecutor(available_cores()) as pool:
            numbers = range(len(originals))
            files = list(pool.map(make_large, originals, [source] * len(originals), numbers))
        manifest = source / "labels.csv"
        with manifest.open("w", newline="") as file:
            rows = [(path.relative_to(source), path.parent.name) for path in files]
            csv.writer(file).writerows([("path", "label"), *rows])
        found = {
            "images": len(files),
            "bytes": sum(path.stat().st_size for path in files),
            "decoder, reduced": in_a_process(measure_decoder, files, SIDE_PX),
            "ingest": in_a_process(measure_ingest, manifest, Path(aside) / "workspace", len(files)),
            "extract": in_a_process(measure_embedding, manifest, Path(aside) / "workspace", len(files)),
            "decoder, full size": in_a_process(measure_decoder, files, None),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
