"""How the cost of extraction and of a whole retrain grows with the number of images, on the embedded backbone."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.copies import drawn, photographs, save_changed
from tests.benchmarks.extraction import prepare
from tests.benchmarks.processes import Answer
from tests.benchmarks.scale import in_a_process

FOLDS = (1, 2, 4, 8)
BACKBONE = {"name": "embedded"}
MOST_RISE = 1.05  # of the seconds an image, from the smallest set to the largest

Retrain = Callable[[Path, Path], Answer]  # of a source, in a workspace


@dataclass(frozen=True)
class Size:
    """What a set of so many images cost, medians; the retrain is a whole process with an empty workspace."""

    images: int
    extraction_s_per_image: float
    extraction_rss_mb: int
    retrain_s_per_image: float
    retrain_rss_mb: int
    retrain_added_s_per_image: float | None  # for each image more than in the set before: without what is the same


def measure_sizes(data: Path, folder: Path, base: int, repeats: int, retrain: Retrain, say: Callable) -> dict:
    """Measures each size in turn, `repeats` times, over changed copies of `base` images."""
    sources = {fold: _manifest(data, folder, base, fold) for fold in FOLDS}
    seen: dict[int, list[tuple[dict[str, Any], Answer]]] = {fold: [] for fold in FOLDS}
    for repeat in range(repeats):
        for fold, source in sources.items():
            with tempfile.TemporaryDirectory(dir=folder) as aside:
                passes = max(FOLDS) // fold  # as many images whatever the set, or a small one is over too soon to time
                extraction = in_a_process(measure_embedding, source, Path(aside) / "extraction", passes)
                answer = retrain(source, Path(aside) / "retrain")
            seen[fold].append((extraction, answer))
            costs = {"retrain_s": round(answer.seconds, 1), "retrain_rss_mb": answer.peak_rss_mb}
            say("sizes", repeat, f"{fold}x", {**extraction, **costs, "verdict": answer.printed["verdict"]})
    sizes: list[Size] = []
    seconds_before = 0.0
    for each in seen.values():
        seconds = median(answer.seconds for _, answer in each)
        sizes.append(_size(each, seconds, sizes[-1].images if sizes else 0, seconds_before))
        seconds_before = seconds
    first, last = sizes[0], sizes[-1]
    return {
        "sizes": [asdict(size) for size in sizes],
        "extraction_time_ratio": round(last.extraction_s_per_image / first.extraction_s_per_image, 3),
        "retrain_time_ratio": round(last.retrain_s_per_image / first.retrain_s_per_image, 3),
        "most_time_ratio": MOST_RISE,
        "extraction_memory_ratio": round(last.extraction_rss_mb / first.extraction_rss_mb, 3),
        "retrain_memory_ratio": round(last.retrain_rss_mb / first.retrain_rss_mb, 3),
        "most_memory_ratio": 1.0,
    }


def _size(seen: list[tuple[dict[str, Any], Answer]], seconds: float, images_before: int, seconds_before: float) -> Size:
    images = seen[0][0]["images"]
    added = (seconds - seconds_before) / (images - images_before)
    return Size(
        images=images,
        extraction_s_per_image=round(median(extraction["seconds"] for extraction, _ in seen) / images, 6),
        extraction_rss_mb=round(median(extraction["peak_rss_mb"] for extraction, _ in seen)),
        retrain_s_per_image=round(seconds / images, 5),
        retrain_rss_mb=round(median(answer.peak_rss_mb for _, answer in seen)),
        retrain_added_s_per_image=round(added, 5) if images_before else None,
    )


def measure_embedding(source: Path, workspace: Path, passes: int) -> dict[str, Any]:
    """The extraction of every image of a source, without what comes before it: median seconds of so many passes."""
    job = prepare(source, workspace, BACKBONE)
    job.embed()  # unmeasured: first runs allocate
    return {"images": len(job.tasks), "seconds": round(median(job.embed() for _ in range(passes)), 3)}


def _manifest(data: Path, folder: Path, base: int, folds: int) -> Path:
    """A source of `folds` changed copies of each of `base` images. A larger one holds all images of a smaller one."""
    manifest = folder / f"{folds}x.csv"
    with manifest.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["path", "label"])
        for place, original in enumerate(drawn(photographs(data / "train"), base, seed=0)):
            for fold in range(folds):
                copy = folder / "copies" / original.parent.name / f"{original.stem}-{fold}.jpg"
                if not copy.exists():
                    save_changed(original, copy, seed=place * max(FOLDS) + fold)
                lines.writerow([copy.relative_to(folder), original.parent.name])
    return manifest


def markdown(measured: dict[str, Any]) -> str:
    lines = [
        "| images | extraction, ms an image | its peak memory | retrain, ms an image | for each image more | "
        "its peak memory |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size in measured["sizes"]:
        added = size["retrain_added_s_per_image"]
        cells = [
            f"{size['images']:,}",
            f"{1000 * size['extraction_s_per_image']:.2f}",
            f"{size['extraction_rss_mb'] / 1000:.2f} GB",
            f"{1000 * size['retrain_s_per_image']:.1f}",
            "" if added is None else f"{1000 * added:.1f}",
            f"{size['retrain_rss_mb'] / 1000:.2f} GB",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
