"""`headstart predict`: photographs on disk to labels, by a published model or any model.onnx of headstart's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flows.cli import options
from flows.cli.output import plain_errors, print_json, say
from tasks.errors import DecodeError, SourceError, UsageError
from tasks.workspace import Workspace, check_name

if TYPE_CHECKING:
    from tasks.networks.classifier import Classifier

app = typer.Typer()


@app.command()
def predict(
    model: options.ModelOrFile,
    images: options.Images,
    workspace: options.Workspace = "./workspace",
    as_json: options.Json = False,
) -> None:
    """Name the class and its probability for each image, through ONNX Runtime and nothing heavier."""
    with plain_errors():
        predictions = predict_images(load_model(Workspace(workspace), model), images)
        if as_json:
            print_json({"predictions": predictions})
        else:
            for row in predictions:
                say(f"{row['probability']:6.1%}  {row['label']}  {row['image']}")


def load_model(workspace: Workspace, model: str) -> Classifier:
    """A classifier from the path of a model.onnx, or from a name: then the champion, checked against its manifest.

    Raises:
        UsageError: there is neither such a file nor such a model.
    """
    from tasks.networks.classifier import Classifier
    from tasks.storage.repository import champion, read_model

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
    from tasks.modality.images import read_bytes

    answers = classifier.classify_all(partial(read_bytes, str(path)) for path in images)
    rows = []
    for path in images:
        try:
            probabilities = next(answers)
        except (DecodeError, SourceError) as exc:
            raise UsageError(f"{path}: {exc}") from exc
        best = int(probabilities.argmax())
        rows.append({"image": str(path), "label": classifier.labels[best], "probability": float(probabilities[best])})
    return rows
