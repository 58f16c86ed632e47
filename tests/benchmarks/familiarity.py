"""Does a model know what it does not know? Its familiarity on known images, strangers and noise, and what that costs.

    uv run python -m tests.benchmarks.familiarity WORKSPACE NAME [--strangers FOLDER]... [--images 150]

WORKSPACE has the published model NAME; its known images are those of its test split. Each FOLDER has images of other
kinds, at any depth. For each, and for noise, prints the area under the ROC curve (AUROC) between known and strange
images by familiarity and by the highest probability, and the share that is called unfamiliar; the AUROC of classes that
were left out, as the run measured it; and processor milliseconds an image, on one thread, with and without the output.
Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tasks.networks.classifier import Classifier, Prediction
from tasks.networks.onnx_graph import part
from tasks.networks.onnx_session import open_session
from tasks.networks.outputs import LABEL, OUTPUTS, PROBABILITIES
from tasks.storage.repository import champion, read_manifest, read_model
from tasks.storage.snapshots import read_snapshot
from tasks.workspace import Workspace

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
SIDE_PX, ROUNDS = 224, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=lambda url: Workspace(url))
    parser.add_argument("name")
    parser.add_argument("--strangers", type=Path, action="append", default=[])
    parser.add_argument("--images", type=int, default=150, help="of each kind")
    given = parser.parse_args()
    version = champion(given.workspace, given.name)
    if version is None:
        parser.error(f"{given.name} has no published version")
    print(json.dumps(measured(given, version), indent=2))


def measured(given: argparse.Namespace, version: int) -> dict[str, Any]:
    manifest = read_manifest(given.workspace, given.name, version)
    content = read_model(given.workspace, given.name, version)["model.onnx"]
    classifier, rng = Classifier(content), np.random.default_rng(0)
    snapshot = read_snapshot(given.workspace, manifest["lineage"]["snapshot"], ["sha256", "uri", "split"])
    test = snapshot[snapshot["split"] == "test"]["uri"].tolist()
    known = predict_files(classifier, test[: given.images])
    strangers = {str(folder): predict_files(classifier, files(folder, given.images, rng)) for folder in given.strangers}
    noise = rng.integers(0, 256, (given.images, SIDE_PX, SIDE_PX, 3), np.uint8)
    strangers["noise"] = together([classifier.predict(image) for image in noise])
    return {
        "known": {"images": len(known.probabilities), "familiar": float(np.mean(np.asarray(known.familiar)))},
        "left_out": manifest["familiarity"]["unknown_classes"],
        "strangers": {name: compared(known, other) for name, other in strangers.items()},
        "cost": cost(content),
    }


def files(folder: Path, count: int, rng: np.random.Generator) -> list[str]:
    found = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return [found[place] for place in rng.permutation(len(found))[:count]]


def predict_files(classifier: Classifier, paths: Sequence[str]) -> Prediction:
    return together(list(classifier.classify_all([Path(path).read_bytes for path in paths])))


def together(found: Sequence[Prediction]) -> Prediction:
    return Prediction(
        np.stack([each.probabilities for each in found]),
        np.array([each.familiarity for each in found], np.float32),
    )


def compared(known: Prediction, other: Prediction) -> dict[str, float]:
    from sklearn.metrics import roc_auc_score

    is_known = np.arange(len(known.probabilities) + len(other.probabilities)) < len(known.probabilities)

    def auroc(one: np.ndarray, two: np.ndarray) -> float:
        return round(float(roc_auc_score(is_known, np.concatenate([one, two]))), 4)

    return {
        "images": len(other.probabilities),
        "auroc": auroc(np.asarray(known.familiarity), np.asarray(other.familiarity)),
        "auroc_by_probability": auroc(known.probabilities.max(axis=1), other.probabilities.max(axis=1)),
        "unfamiliar": round(1 - float(np.mean(np.asarray(other.familiar))), 3),
    }


def cost(content: bytes) -> dict[str, float]:
    """Milliseconds an image and bytes, alternating, so that load meets both alike."""
    model = onnx.load_model_from_string(content)
    without = part(model, ["image"], [PROBABILITIES, LABEL]).SerializeToString()
    sessions = {"with": open_session(content), "without": open_session(without)}
    image = np.random.default_rng(0).integers(0, 256, (1, SIDE_PX, SIDE_PX, 3), np.uint8)
    took: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            wanted = [each for each in OUTPUTS if name == "with" or each in (PROBABILITIES, LABEL)]
            started = time.thread_time()
            session.run(wanted, {"image": image})
            took[name].append(1000 * (time.thread_time() - started))
    best = {f"ms_{name}": round(float(np.median(values)), 3) for name, values in took.items()}
    return {**best, "ratio": round(best["ms_with"] / best["ms_without"], 4), "bytes": len(content) - len(without)}


if __name__ == "__main__":
    main()
