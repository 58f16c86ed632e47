"""`headstart predict`: photographs on disk to labels, by a published model or any model.onnx of headstart's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tasks.errors import DecodeError, SourceError, UsageError
from tasks.modality.images import read_bytes
from tasks.networks.classifier import Classifier
from tasks.storage.repository import champion, read_model
from tasks.workspace import Workspace, check_name


def load_model(workspace: Workspace, model: str) -> Classifier:
    """A classifier from the path of a model.onnx, or from a name: then the champion, checked against its manifest.

    Raises:
        UsageError: there is neither such a file nor such a model.
    """
    if model.endswith(".onnx"):
        if not Path(model).is_file():
            raise UsageError(f"there is no file {model}")
        return Classifier(model)
    version = champion(workspace, check_name(model))
    if version is None:
        known = ", ".join(workspace.names("models")) or "none"
        raise UsageError(f"no model {model!r} has been published in {workspace.url}; there is: {known}")
    return Classifier(read_model(workspace, model, version))


def predict_images(classifier: Classifier, images: Sequence[Path]) -> list[dict[str, Any]]:
    """`{"image", "label", "probability"}` for each image, in the given order.

    Raises:
        UsageError: a file can't be read or is no image; its path is in the message.
    """
    answers = classifier.classify_all(partial(_read, path) for path in images)
    rows = []
    for path in images:
        try:
            probabilities = next(answers)
        except (DecodeError, SourceError) as exc:
            raise UsageError(f"{path}: {exc}") from exc
        best = int(probabilities.argmax())
        rows.append({"image": str(path), "label": classifier.labels[best], "probability": float(probabilities[best])})
    return rows


def _read(path: Path) -> bytes:
    return read_bytes(str(path))
