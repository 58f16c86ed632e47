"""`headstart predict`: photographs or texts to labels, by a published model or any model.onnx of headstart's."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flows.cli import options
from flows.cli.output import UNFAMILIAR, plain_errors, print_json, say
from tasks.display import showing, visible
from tasks.errors import DecodeError, SourceError, UsageError
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.networks.classifier import Classifier, Prediction

app = typer.Typer()

NAMED_FAULTS = 100  # of a call at the terminal; `--json` has all


@app.command()
def predict(
    model: options.ModelOrFile,
    images: options.Images,
    to: options.AnswersFile = None,
    unknown_label: options.UnknownLabel = None,
    workspace: options.Workspace = "./workspace",
    public_key: options.PublicKey = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Name the class and its probability for each image or text, through ONNX Runtime and nothing heavier.

    Of a folder, each file below it with the suffix of an image that can be read; the others are counted. Exit status 2
    where a file can't be used: the others are predicted all the same.

    With --to, of one folder, bucket or table of any size, into a file: on all cores, in flat memory. What the network
    made of each image is kept in the workspace, so an interrupted call is resumed, and the next one is quick.
    """
    with plain_errors():
        place = Workspace(workspace)
        if to:
            with nullcontext() if as_json or quiet else showing():
                answer = _predict_to(place, model, images, to, public_key, unknown_label)
        else:
            answer = _predict(place, model, images, public_key, unknown_label)
        if as_json:
            print_json({key: value for key, value in answer.items() if value or key not in ("faults", "skipped")})
        elif to:
            new = f"{answer['embedded']:,} of them new"
            say(f"{answer['images']:,} {answer['items']} predicted, {new}: {visible(str(to))}")
        else:
            for row in answer["predictions"]:
                doubt = "" if row.get("familiar", True) else UNFAMILIAR
                say(f"{row['probability']:6.1%}  {visible(row['label'])}  {visible(_item(row))}{doubt}")
        if faults := answer["faults"]:
            named = [f"{visible(_item(fault)) or repr('')}: {fault['reason']}" for fault in faults[:NAMED_FAULTS]]
            more = [f"and {len(faults) - NAMED_FAULTS:,} more"] if len(faults) > NAMED_FAULTS else []
            raise UsageError("\n".join(named + more))


def _predict(
    workspace: Workspace, model: str, images: Sequence[str], public_key: str | None, unknown_label: str | None
) -> dict[str, Any]:
    classifier = load_model(workspace, model, public_key)
    if unknown_label:
        check_familiarity(classifier.has_familiarity, classifier.task)
    if classifier.task == "text":
        predictions, faults = predict_texts(classifier, given_texts(images), unknown_label)
        return {"predictions": predictions, "faults": faults, "skipped": {}}
    files, skipped = image_files(map(Path, images))
    _name_skipped(skipped)
    predictions, faults = predict_images(classifier, files, unknown_label)
    return {"predictions": predictions, "faults": faults, "skipped": skipped}


def _item(row: dict[str, Any]) -> str:
    return row["image"] if "image" in row else row["text"]


def _predict_to(
    workspace: Workspace,
    model: str,
    sources: Sequence[str],
    to: Path,
    public_key: str | None,
    unknown_label: str | None,
) -> dict[str, Any]:
    """What was done; the answers are in the file."""
    from tasks.config import load_config
    from tasks.ingest.entries import suffix_of
    from tasks.pool.answers import check_answers_file, image_names, predict_to
    from tasks.pool.cut import cut_champion, cut_model, for_model
    from tasks.runs import new_run
    from tasks.storage.repository import TOKENIZER

    check_answers_file(to)
    if len(sources) != 1:
        raise UsageError(f"--to takes one folder, bucket or table; found {len(sources)}")
    if model.endswith(".onnx"):
        tokenizer = Path(model).with_name(TOKENIZER)
        cut = cut_model(_read_file(Path(model)), tokenizer=tokenizer.read_bytes() if tokenizer.is_file() else None)
        name = "file"
    else:
        cut, name = cut_champion(workspace, model, public_key), model
    run = for_model(new_run(sources[0], name, workspace.url, load_config(environ=os.environ)), cut)
    if unknown_label:
        check_familiarity(cut.has_familiarity, cut.task)
    seen = predict_to(run, cut, to, unknown_label)
    skipped = Counter(suffix_of(path) for path, reason in seen.left_out.items() if "its name is not" in reason)
    _name_skipped(skipped, f"{cut.task}s")
    names = image_names(sources[0], list(seen.faults))
    return {
        "file": str(to),
        "images": len(seen.table),
        "items": "texts" if cut.task == "text" else "images",
        "embedded": seen.embedded,
        "faults": [
            {"image": image, "reason": reason} for image, reason in zip(names, seen.faults.values(), strict=True)
        ],
        "skipped": skipped,
    }


def _read_file(path: Path) -> bytes:
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    return path.read_bytes()


def _name_skipped(skipped: Counter[str], items: str = "images") -> None:
    if skipped:
        typer.echo(f"skipped, since they can't be read as {items}: {visible(_by_suffix(skipped))}", err=True)


def image_files(given: Iterable[Path]) -> tuple[list[Path], Counter[str]]:
    """The files that were named, and those below the folders that were, sorted; and how many of these were skipped, by
    their suffix. Raises UsageError for a folder without an image."""
    from tasks.modality.images.content import readable_suffixes

    readable = readable_suffixes()
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
    from tasks.pool.published import read_champion

    if model.endswith(".onnx"):
        if not Path(model).is_file():
            raise UsageError(f"there is no file {model}")
        return Classifier(model)
    return Classifier.of_version(read_champion(workspace, model, public_key)[0])


def check_familiarity(has_familiarity: bool, task: str) -> None:
    """Raises UsageError where --unknown-label asks for what the model does not say."""
    if not has_familiarity:
        item = "a text" if task == "text" else "an image"
        raise UsageError(
            f"--unknown-label: this model does not say how familiar {item} is (its file is of an older release):"
            " retrain it, or leave --unknown-label away"
        )


def given_texts(given: Sequence[str]) -> list[str]:
    """The texts that were named: a .txt file, those below a folder, '-' for the lines of standard input, and anything
    else is a text.

    Raises:
        UsageError: a file that can't be read, a folder without a .txt file, or a table.
    """
    texts: list[str] = []
    for each in given:
        if each == "-":
            texts += [line.rstrip("\n") for line in sys.stdin if line.strip()]
        elif each.lower().endswith(".txt"):
            texts.append(_read_text(Path(each)))
        elif os.path.isdir(each):  # noqa: PTH112 - a text may be longer than any path, or hold a NUL
            files = sorted(path for path in Path(each).rglob("*") if path.suffix.lower() == ".txt" and path.is_file())
            if not files:
                raise UsageError(f"there is no .txt file in the folder {each}")
            texts += map(_read_text, files)
        elif each.lower().endswith((".csv", ".jsonl", ".parquet")) and os.path.isfile(each):  # noqa: PTH113 - likewise
            raise UsageError(f"{each} is a table: predict --to FILE writes what the model says of each of its texts")
        else:
            texts.append(each)
    return texts


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"can't read {path}: {exc}") from None


def predict_texts(
    classifier: Classifier, texts: Sequence[str], unknown_label: str | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """As `predict_images`, of texts: each row has `text` in place of `image`."""
    from tasks.modality.texts.content import decode_text

    good: list[str] = []
    faults = []
    for text in texts:
        try:
            decode_text(text.encode())
        except (DecodeError, UnicodeEncodeError) as exc:
            faults.append({"text": text, "reason": str(exc)})
        else:
            good.append(text)
    found = classifier.classify_all([partial(str.encode, text) for text in good])
    rows = [
        {"text": text, **_row(classifier, prediction, unknown_label)}
        for text, prediction in zip(good, found, strict=True)
    ]
    return rows, faults


def predict_images(
    classifier: Classifier, images: Sequence[Path], unknown_label: str | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """`{"image", "label", "probability", "familiarity", "familiar"}` for each image, the last two where the model says
    it, and `{"image", "reason"}` for each that can't be used, in the given order.

    Args:
        unknown_label: for images that are not familiar; None keeps the likeliest class.
    """
    from concurrent.futures import ThreadPoolExecutor

    from tasks.modality.images.content import decode
    from tasks.modality.items import read_bytes
    from tasks.networks.onnx_session import available_cores

    def answer(path: Path) -> dict[str, Any]:
        try:
            found = classifier.predict(decode(read_bytes(str(path))))
        except (DecodeError, SourceError) as exc:
            return {"image": str(path), "reason": str(exc)}
        return {"image": str(path), **_row(classifier, found, unknown_label)}

    with ThreadPoolExecutor(available_cores()) as pool:
        answers = list(pool.map(answer, images))
    return [each for each in answers if "label" in each], [each for each in answers if "reason" in each]


def _row(classifier: Classifier, found: Prediction, unknown_label: str | None) -> dict[str, Any]:
    """The label and its probability and, where the model says it, the familiarity."""
    best = int(found.probabilities.argmax())
    row = {"label": classifier.labels[best], "probability": float(found.probabilities[best])}
    if found.familiarity is None:
        return row
    familiar = bool(found.familiar)
    label = row["label"] if familiar or not unknown_label else unknown_label
    return {**row, "label": label, "familiarity": float(found.familiarity), "familiar": familiar}
