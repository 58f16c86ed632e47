"""`headstart predict`: photographs on disk to labels, by a published model or any model.onnx of headstart's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flows.cli import options
from flows.cli.output import plain_errors, print_json, say
from tasks.display import visible
from tasks.errors import DamagedFileError, DecodeError, SourceError, UsageError
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
    """Name the class and its probability for each image, through ONNX Runtime and nothing heavier.

    Of a folder, each file below it with the suffix of an image that can be read; the others are counted. Exit status 2
    where a file can't be used: the others are predicted all the same.
    """
    with plain_errors():
        classifier = load_model(Workspace(workspace), model, public_key)
        files, skipped = image_files(images)
        if skipped:
            typer.echo(f"skipped, since they can't be read as images: {visible(_by_suffix(skipped))}", err=True)
        predictions, faults = predict_images(classifier, files)
        if as_json:
            left_out = {key: value for key, value in (("faults", faults), ("skipped", skipped)) if value}
            print_json({"predictions": predictions, **left_out})
        else:
            for row in predictions:
                say(f"{row['probability']:6.1%}  {visible(row['label'])}  {visible(row['image'])}")
        if faults:
            raise UsageError("\n".join(f"{visible(fault['image'])}: {fault['reason']}" for fault in faults))


def image_files(given: Iterable[Path]) -> tuple[list[Path], Counter[str]]:
    """The files that were named, and those below the folders that were, sorted; and how many of these were skipped, by
    their suffix. Raises UsageError for a folder without an image."""
    from PIL import Image

    from tasks.modality.images import FORMATS

    Image.init()
    readable = {suffix for suffix, kind in Image.EXTENSION.items() if kind in FORMATS}
    files: list[Path] = []
    skipped: Counter[str] = Counter()
    for path in given:
        if not path.is_dir():
            files.append(path)
            continue
        below = sorted(each for each in path.rglob("*") if each.is_file())
        others = Counter(each.suffix.lower() for each in below if each.suffix.lower() not in readable)
        if others.total() == len(below):
            found = f"found are {_by_suffix(others)}; " if below else ""
            raise UsageError(f"there is no image in the folder {path}; {found}read are {', '.join(sorted(readable))}")
        files += [each for each in below if each.suffix.lower() in readable]
        skipped += others
    return files, skipped


def _by_suffix(counts: Counter[str]) -> str:
    return ", ".join(
        f"{count:,} {f'*{suffix}' if suffix else 'without a suffix'}" for suffix, count in counts.most_common()
    )


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


def predict_images(classifier: Classifier, images: Sequence[Path]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """`{"image", "label", "probability"}` for each image, and `{"image", "reason"}` for each that can't be used, in the
    given order."""
    from concurrent.futures import ThreadPoolExecutor

    from tasks.modality.images import decode, read_bytes
    from tasks.networks.onnx_session import available_cores

    def answer(path: Path) -> dict[str, Any]:
        try:
            probabilities = classifier.probabilities(decode(read_bytes(str(path))))
        except (DecodeError, SourceError) as exc:
            return {"image": str(path), "reason": str(exc)}
        best = int(probabilities.argmax())
        return {"image": str(path), "label": classifier.labels[best], "probability": float(probabilities[best])}

    with ThreadPoolExecutor(available_cores()) as pool:
        answers = list(pool.map(answer, images))
    return [each for each in answers if "label" in each], [each for each in answers if "reason" in each]
