"""Augmentation: an albumentations pipeline as data, and one deterministic view for each (image, view number).

A policy is a JSON file as `albumentations.save` writes it. Its canonical text is part of the feature key, so features
of one policy are never used for another.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.config import POOLED, Config
from tasks.errors import ConfigError

# Above `block_12_add` of MobileNetV2 on clothing-dataset-small (2,760 images, 5 passes over them, one view of each in a
# pass, weights averaged): with 3 `mild` views validation loss 0.475 and accuracy 0.918, with a mirrored one 0.503 and
# 0.906.
UNFROZEN_VIEWS = 3
POLICIES_FOLDER = Path(__file__).with_name("policies")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A checked policy: `text` is its canonical JSON, `views` the augmented views of each training image."""

    name: str
    text: str
    views: int

    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def policy_of(config: Config) -> Policy:
    """The policy that a configuration asks for. Raises ConfigError."""
    views = config.augment.views
    if config.task == "text":
        views = 0
    if views == "auto":
        # Measured on subsets of clothing-dataset-small, 5 draws each of 300, 1,000 and 2,000 images: with a mirrored
        # view beside each image a classifier on pooled features was 0.3 points worse on average (of 100 images: within
        # noise), for twice the cost.
        views = 0 if config.backbone.boundary == POOLED else UNFROZEN_VIEWS
    return load_policy(config.augment.policy, views)


def load_policy(name: str, views: int) -> Policy:
    """A policy by its name in this package, or by the path of an albumentations JSON file.

    Raises:
        ConfigError: no such policy, or a file that is not a pipeline.
    """
    path = Path(name) if name.endswith(".json") else POLICIES_FOLDER / f"{name}.json"
    known = sorted(file.stem for file in POLICIES_FOLDER.glob("*.json"))
    if not path.is_file():
        raise ConfigError(
            f"augment.policy: there is no {name!r}; use one of {', '.join(known)}, or a .json file's path"
        )
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ConfigError(f"augment.policy: {path} is not JSON: {exc}") from exc
    if not isinstance(tree, dict) or "transform" not in tree:
        raise ConfigError(f"augment.policy: {path} is no pipeline; save one with albumentations.save(pipeline, path)")
    _refuse_code(tree, path)
    return Policy(name=path.stem, text=json.dumps(tree, sort_keys=True), views=views)


class Augmenter:
    """Makes views of images under a policy. One for all threads: each thread gets its own pipeline."""

    def __init__(self, policy: Policy) -> None:
        self._tree = json.loads(policy.text)
        self._local = threading.local()
        self._pipeline()  # a bad policy fails here, not in a worker

    def view(self, pixels: np.ndarray, sha256: str, view: int) -> np.ndarray:
        """One view of an image.

        Args:
            pixels: uint8 [H, W, 3], RGB.
            sha256: hex digest of the encoded image; with `view` it seeds the pipeline.
            view: 0 is the image as it is; 1, 2, … are augmented.

        Returns:
            uint8 [H', W', 3].
        """
        if view == 0:
            return pixels
        pipeline = self._pipeline()
        pipeline.set_random_seed(_seed(sha256, view))
        return np.ascontiguousarray(pipeline(image=pixels)["image"])

    def _pipeline(self) -> Any:
        if not hasattr(self._local, "pipeline"):
            self._local.pipeline = _build(self._tree)
        return self._local.pipeline


def _build(tree: dict[str, Any]) -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or it asks the package index for its version
    import albumentations
    import cv2

    cv2.setNumThreads(1)  # the threads of extraction already fill the cores
    try:
        pipeline: Any = albumentations.from_dict(tree)
    except Exception as exc:
        raise ConfigError(f"augment.policy: albumentations can't build the pipeline: {exc}") from exc
    # An unknown argument only warns, and does not come back. (Turning warnings into errors for the call would do so for
    # every thread.)
    if unknown := _lost_keys(tree["transform"], albumentations.to_dict(pipeline)["transform"]):
        raise ConfigError(f"augment.policy: albumentations can't build the pipeline: it knows no {', '.join(unknown)}")
    return pipeline


def _lost_keys(given: Any, kept: Any) -> list[str]:
    """The keys of `given`, at any depth of the transforms, that `kept` lacks."""
    lost = [key for key in given if key not in kept]
    pairs = zip(given.get("transforms") or [], kept.get("transforms") or [], strict=False)
    return lost + [key for one, other in pairs for key in _lost_keys(one, other)]


def _refuse_code(tree: Any, path: Path) -> None:
    """Only albumentations' own transforms: a class name with a module, or a lambda, would run code from data."""
    if isinstance(tree, dict):
        name = str(tree.get("__class_fullname__", ""))
        if "." in name or name == "Lambda" or "__lambda__" in str(tree.get("__type__", "")):
            raise ConfigError(f"augment.policy: {path} names {name!r}; only albumentations' own transforms are allowed")
        for value in tree.values():
            _refuse_code(value, path)
    elif isinstance(tree, list):
        for value in tree:
            _refuse_code(value, path)


def _seed(sha256: str, view: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{sha256}:{view}".encode()).digest()[:4], "big")
