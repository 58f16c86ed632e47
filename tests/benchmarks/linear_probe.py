"""What the embedded feature extractor is worth: a linear probe on pooled features, beside random weights and
ImageNet's.

    uv run --with scikit-image python -m tests.benchmarks.linear_probe \
        --clothing CLOTHING --signs SIGN_DIGITS --imagenet WEIGHTS.h5 [--json]

One network (MobileNetV2 at the same width and input size), one head, one split a data set; only the weights
differ:

- clothing: `CLOTHING/train` against `CLOTHING/validation`, a subfolder a class. The training photographs are
  also the embedded trunk's transfer images (without labels), so this is its home ground.
- signs: a subfolder a class, a fifth held out by the hash of the file's bytes. Never seen in distillation.
- photographs: grey patches of photographs that come with scikit-image and scikit-learn; the class is the
  photograph, training patches are cut from its left, test patches from its right. Never seen in distillation.
  It asks for textures and materials rather than objects; with 17 photographs it is a small check, no more.

The head is a logistic regression on standardised features. Its regularisation is chosen on a fifth of the
training images, among three strengths. The random row is the mean of three seeds.
"""

import argparse
import hashlib
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deploy.embedded_backbone import distill
from tasks.networks import embedded

if TYPE_CHECKING:
    import keras

STRENGTHS = (1e-4, 1e-3, 1e-2)
RANDOM_SEEDS = (0, 1, 2)  # random features differ by several points from seed to seed
SUFFIXES = {".jpg", ".jpeg", ".png"}
PHOTOGRAPHS = (  # by their functions in skimage.data; each image is inside the wheel
    "astronaut",
    "brick",
    "camera",
    "cat",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "page",
    "retina",
    "rocket",
)
PATCH_PX, PATCHES = 64, 40


@dataclass(frozen=True)
class Task:
    """One data set: images uint8 (N, size, size, 3), integer labels (N,), and which rows are the test set."""

    name: str
    images: np.ndarray
    labels: np.ndarray
    test: np.ndarray


def read_image(path: Path, size: int) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def labelled_files(folder: Path) -> list[tuple[Path, str]]:
    return [(p, p.parent.name) for p in sorted(folder.glob("*/*")) if p.suffix.lower() in SUFFIXES]


def task_of_files(name: str, files: Sequence[tuple[Path, str]], test: Sequence[bool], size: int) -> Task:
    images = np.stack([read_image(path, size) for path, _ in files])
    labels = np.unique([label for _, label in files], return_inverse=True)[1]
    return Task(name, images, labels, np.array(test))


def clothing(folder: Path, size: int) -> Task:
    train, validation = labelled_files(folder / "train"), labelled_files(folder / "validation")
    return task_of_files("clothing", [*train, *validation], [False] * len(train) + [True] * len(validation), size)


def signs(folder: Path, size: int) -> Task:
    files = labelled_files(folder)
    test = [int(hashlib.sha256(path.read_bytes()).hexdigest(), 16) % 5 == 0 for path, _ in files]
    return task_of_files("signs", files, test, size)


def photographs(size: int) -> Task:
    """PATCHES patches of PATCH_PX from each half of each photograph; none crosses the middle."""
    rng, images, labels, test = np.random.default_rng(0), [], [], []
    for label, photo in enumerate(bundled_photographs()):
        height, width = photo.shape
        middle = width // 2
        for right, low, high in ((False, 0, middle - PATCH_PX), (True, middle, width - PATCH_PX)):
            for top, left in zip(
                rng.integers(0, height - PATCH_PX + 1, PATCHES),
                rng.integers(low, high + 1, PATCHES),
                strict=True,
            ):
                patch = Image.fromarray(photo[top : top + PATCH_PX, left : left + PATCH_PX])
                resized = np.asarray(patch.resize((size, size), Image.Resampling.BILINEAR))
                images.append(np.repeat(resized[..., None], 3, axis=-1))
                labels.append(label)
                test.append(right)
    return Task("photographs", np.stack(images), np.array(labels), np.array(test))


def bundled_photographs() -> list[np.ndarray]:
    """Grey, uint8 (H, W), short side at most 320 px so that a patch shows more than a few pores."""
    import skimage.data  # pyright: ignore[reportMissingImports]  # only this benchmark needs it
    from sklearn.datasets import load_sample_images

    photos = [np.asarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS]
    photos += [np.asarray(skimage.data.stereo_motorcycle()[0]), *load_sample_images().images]
    grey = [Image.fromarray(photo).convert("L") for photo in photos]
    for photo in grey:
        scale = max(1.0, min(photo.size) / 320)
        photo.thumbnail((round(photo.width / scale), round(photo.height / scale)))
    return [np.asarray(photo) for photo in grey]


def pooled_features(net: "keras.Model", images: np.ndarray) -> np.ndarray:
    """uint8 images to the mean over the last feature map, float32 (N, 1280)."""
    (maps,) = distill.run_maps(distill.maps_session(net, ["out_relu"]), images)
    return maps.mean((1, 2))


def probe_accuracy(features: np.ndarray, task: Task) -> float:
    """Accuracy on the test rows of a head that saw the others."""
    # Random features are nearly collinear: their head stops at its limit of iterations, no worse for it.
    warnings.simplefilter("ignore", ConvergenceWarning)
    train, labels = features[~task.test], task.labels[~task.test]
    inner = train_test_split(train, labels, test_size=0.2, random_state=0, stratify=labels)
    inner_train, inner_test, inner_labels, inner_truth = inner
    scores = [_head(strength).fit(inner_train, inner_labels).score(inner_test, inner_truth) for strength in STRENGTHS]
    head = _head(STRENGTHS[int(np.argmax(scores))]).fit(train, labels)
    return float(head.score(features[task.test], task.labels[task.test]))


def _head(strength: float):
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))


def random_extractor(seed: int, size: int) -> "keras.Model":
    import keras

    keras.utils.set_random_seed(seed)
    return embedded.build((size, size, 3), weights=False)


def embedded_extractor(weights: Path | None, size: int) -> "keras.Model":
    net = embedded.build((size, size, 3), weights=weights is None)
    if weights is not None:
        embedded.load_weights(net, weights, hashlib.sha256(weights.read_bytes()).hexdigest())
    return net


def imagenet_extractor(weights: Path, size: int) -> "keras.Model":
    net = embedded.mobilenet_v2((size, size, 3), alpha=1.0)
    net.load_weights(weights)
    return net


def accuracies(tasks: Sequence[Task], nets: Sequence["keras.Model"]) -> dict[str, float]:
    """Mean probe accuracy over the networks, by task."""
    rows = [[probe_accuracy(pooled_features(net, task.images), task) for task in tasks] for net in nets]
    found = dict(zip([task.name for task in tasks], np.mean(rows, axis=0).round(4).tolist(), strict=True))
    print(found, file=sys.stderr, flush=True)  # a row takes a minute or so: say that it goes on
    return found


def closed(low: dict[str, float], found: dict[str, float], high: dict[str, float]) -> dict[str, float]:
    """The share of the way from the random row to ImageNet's, by task."""
    return {task: round((found[task] - low[task]) / (high[task] - low[task]), 4) for task in found}


def markdown(table: dict[str, dict[str, float]]) -> str:
    names = list(table["random"])
    titles = {"closed": "share of the distance closed"}
    lines = ["| weights | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    lines += [
        f"| {titles.get(row, row)} | " + " | ".join(f"{values[name]:.3f}" for name in names) + " |"
        for row, values in table.items()
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clothing", type=Path, required=True, help="folder with train/ and validation/")
    parser.add_argument("--signs", type=Path, required=True, help="folder with a subfolder a class")
    parser.add_argument("--imagenet", type=Path, required=True, help="MobileNetV2 1.0 no-top weights, .h5")
    parser.add_argument("--weights", type=Path, help="another archive in place of the shipped weights")
    parser.add_argument("--size", type=int, default=embedded.INPUT_SIZE_PX, help="input size in pixels")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parsed = parser.parse_args(arguments)
    tasks = [
        clothing(parsed.clothing, parsed.size),
        signs(parsed.signs, parsed.size),
        photographs(parsed.size),
    ]
    size = parsed.size
    table = {
        "random": accuracies(tasks, [random_extractor(seed, size) for seed in RANDOM_SEEDS]),
        "embedded": accuracies(tasks, [embedded_extractor(parsed.weights, size)]),
        "imagenet": accuracies(tasks, [imagenet_extractor(parsed.imagenet, size)]),
    }
    table["closed"] = closed(table["random"], table["embedded"], table["imagenet"])
    print(json.dumps({"size_px": parsed.size, "accuracy": table}) if parsed.json else markdown(table))


if __name__ == "__main__":
    main(sys.argv[1:])
