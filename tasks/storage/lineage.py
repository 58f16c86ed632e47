"""Where a model comes from: enough to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tasks.config import parse_config
from tasks.errors import HeadstartError
from tasks.records import Catalogue, FeatureExtractor, Features, Head, Run, Snapshot
from tasks.storage.repository import read_manifest

LIBRARIES = ("headstart", "tensorflow", "keras", "onnx", "onnxruntime", "tf2onnx", "numpy", "pillow", "albumentations")


@cache
def library_versions() -> dict[str, str]:
    """The versions of the libraries that a result depends on."""
    return {library: version(library) for library in LIBRARIES}


def lineage(run: Run, head: Head, artifacts: Mapping[str, str]) -> dict[str, Any]:
    """Snapshot, keys, head, configuration, library versions, and the folder of each artifact by its stage."""
    extractor = head.features.extractor
    return {
        "snapshot": head.features.snapshot.id,
        "recipe": extractor.head_key,
        "recipes": sorted({extractor.key, extractor.head_key}),
        "trunk": extractor.onnx_path,
        "precision": extractor.precision,
        "backbone": extractor.backbone,
        "boundary": extractor.boundary,
        "head_digest": head.digest,
        "features": {
            "images": head.features.snapshot.images,
            "views": head.features.views,
            "extractor": {**asdict(extractor), "weights": ""},  # a path of this machine
        },
        "artifacts": dict(artifacts),
        "config_digest": run.config.digest(),
        "config": run.config.model_dump(by_alias=True),
        "auto": run.workspace.read_json(run.path("auto.json")) if run.config.auto.enabled else None,
        "source": run.source,
        "libraries": library_versions(),
    }


def trained_from(run: Run, version: int, today: FeatureExtractor) -> tuple[Run, Features] | None:
    """What the head of a published version was trained from, and a run with its configuration.

    Args:
        run: of the same model.
        today: the extractor of the run, which has the path of the weights.

    Returns:
        None where the manifest does not say enough: it is of an earlier release, or its unfrozen layers are of a
        network whose weights are not at hand.
    """
    manifest = read_manifest(run.workspace, run.name, version)
    try:
        lineage = manifest["lineage"]
        features = lineage["features"]
        extractor = TypeAdapter(FeatureExtractor).validate_python(features["extractor"])
        config = parse_config(lineage["config"])
        images, views, snapshot = features["images"], features["views"], lineage["snapshot"]
    except (KeyError, TypeError, ValidationError, HeadstartError):
        return None
    if extractor.activations_key and extractor.backbone != today.backbone:
        return None
    past = Catalogue(digest="", images=images, quarantined=0, source="", work="", table_path="", folder="")
    found = Features(
        snapshot=Snapshot(
            id=snapshot, labels=tuple(manifest["labels"]), images=images, new=0, folder="", catalogue=past
        ),
        extractor=replace(extractor, weights=today.weights),
        views=views,
        embedded=0,
    )
    # Its settings, and the seconds that this run may spend.
    return replace(run, config=config.model_copy(update={"evaluate": run.config.evaluate})), found
