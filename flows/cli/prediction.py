"""`headstart predict`: photographs on disk to labels, by a published model or any model.onnx of headstart's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flows.cli import options
from flows.cli.output import plain_errors, print_json, say
from tasks.errors import DamagedFileError, DecodeError, SourceError, UsageError
from tasks.text import visible
from tasks.workspace import Workspace, check_name

if TYPE_CHECKING:
    from tasks.networks.classifier import Classifier

app = typer.Typer()


@app.command()
def predict(
    model: options.ModelOrFile,
    images: options.Images,
    workspace: options.Workspace = "./workspace",
    public_key: options.PublicKey = None,
    as_json: options.Json = False,
) -> None:
    """Name the class and its probability for each image, through ONNX Runtime and nothing heavier."""
    with plain_errors():
        predictions = predict_images(load_model(Workspace(workspace), model, public_key), images)
        if as_json:
            print_json({"predictions": predictions})
        else:
            for row in predictions:
                say(f"{row['probability']:6.1%}  {visible(row['label'])}  {visible(row['image'])}")


def load_model(workspace: Workspace, model: str, public_key: str | None = None) -> Classifier:
    """A classifier from the path of a model.onnx, or from a name: then the champion, verified as `serve` does.

    Args:
        public_key: PEM file of the key that the champion must be signed with; None needs no signature.

    Raises:
        UsageError: there is neither such a file nor such a model.
        DamagedFileError: the champion does not verify.
    """
    from tasks.networks.classifier import Classifier
    from tasks.publish.verify import verify_version
    from tasks.storage.repository import MODEL, champion, published_models

    if model.endswith(".onnx"):
        if not Path(model).is_file():
            raise UsageError(f"there is no file {model}")
        return Classifier(model)
    version = champion(workspace, check_name(model))
    if version is None:
        known = ", ".join(published_models(workspace)) or "none"
        raise UsageError(f"no model {model!r} has been published in {workspace.url}; there is: {known}")
    found = verify_version(workspace, model, version, public_key=public_key)
    if not found.ok:
        raise DamagedFileError(f"version {version} of {model} does not verify: {'; '.join(found.problems)}")
    return Classifier(found.files[MODEL])


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
            raise UsageError(f"{visible(str(path))}: {exc}") from exc
        best = int(probabilities.argmax())
        rows.append({"image": str(path), "label": classifier.labels[best], "probability": float(probabilities[best])})
    return rows
