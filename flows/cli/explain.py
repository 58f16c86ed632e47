"""`headstart explain`: why the published model says what it says of a photograph or a text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flows.cli import options
from flows.cli.output import UNFAMILIAR, plain_errors, print_json, say
from tasks.display import showing, visible
from tasks.errors import UsageError
from tasks.modality.items import shown
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.pool.cut import CutModel
    from tasks.pool.explanation import Explanation
    from tasks.records import Run

app = typer.Typer()

STRONGEST_WORDS = 5


@app.command()
def explain(
    name: options.ModelName,
    images: options.Photographs,
    to: options.PageFile = None,
    workspace: options.Workspace = "./workspace",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show why the published model gives a photograph or a text its class: a heat map of where the evidence lies, or
    the words that speak for it, and the three training items that it finds most similar, on one page.

    Exit status 2 where a file can't be used: the others are explained all the same.
    """
    from tasks.config import load_config
    from tasks.pool.cut import cut_champion, for_model
    from tasks.pool.explanation_page import render_explanations
    from tasks.runs import new_run

    with plain_errors(), nullcontext() if as_json or quiet else showing():
        if to and to.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"--to takes a file ending with .html; found {to}")
        run = new_run("", name, workspace, load_config(environ=os.environ))
        model = cut_champion(run.workspace, name)
        run = for_model(run, model)
        explanations, faults = _explained(run, model, images)
        page = render_explanations(run, model.version, explanations, faults).encode()
        answer = {
            "name": name,
            "version": int(model.version),
            "explanations": [_as_json(each) for each in explanations],
            "page": _write(run.workspace, f"explanations/{name}.html", to, page) if explanations else None,
            "faults": [{model.task: item, "reason": reason} for item, reason in faults.items()],
        }
        if as_json:
            print_json(answer)
        else:
            _print(answer)
        if faults:
            raise UsageError("\n".join(f"{visible(image)}: {reason}" for image, reason in faults.items()))


def _explained(run: Run, model: CutModel, items: Sequence[str]) -> tuple[list[Explanation], dict[str, str]]:
    """The explanations of what was named, and why the rest can't be used."""
    from flows.cli.prediction import given_texts, image_files
    from tasks.pool.explanation import explain
    from tasks.pool.text_explanation import explain_texts

    if model.task == "text":
        return explain_texts(run, model, given_texts(items))
    files, skipped = image_files(map(Path, items))
    if skipped:
        typer.echo(f"skipped, since they can't be read as images: {skipped.total():,} files", err=True)
    return explain(run, model, list(dict.fromkeys(files)))


def _as_json(each: Explanation) -> dict[str, Any]:
    """`heat` is the fall of the class's log-odds without each spot, row by row; null where the model has no maps. Of a
    text, `words` has that of each word."""
    (label, probability), *_ = each.classes
    words = [{"word": word, "weight": round(weight, 4)} for word, weight in each.words]
    about = {"text": shown(each.image), "words": words} if words else {"image": each.image}
    return {
        **about,
        "label": label,
        "probability": probability,
        "classes": [{"label": name, "probability": share} for name, share in each.classes],
        "heat": None if each.heat is None else each.heat.round(4).tolist(),
        "nearest": [{"text" if each.words else "image": shown(uri), "label": label} for uri, label in each.near],
        "familiarity": each.familiarity,
        "familiar": each.familiar,
    }


def _write(workspace: Workspace, path: str, to: Path | None, page: bytes) -> str:
    """Writes the page to the given file, or into the workspace. Returns where it lies."""
    if to:
        workspace, path = Workspace(str(to.absolute().parent)), to.name
    workspace.write_bytes(path, page)
    return str(to) if to else workspace.display(path)


def _print(answer: dict[str, Any]) -> None:
    explanations: Sequence[dict[str, Any]] = answer["explanations"]
    for each in explanations:
        doubt = UNFAMILIAR if each["familiar"] is False else ""
        item = each["image"] if "image" in each else each["text"]
        say(f"{each['probability']:6.1%}  {visible(each['label'])}  {visible(item)}{doubt}")
        if words := each.get("words"):
            best = sorted(words, key=lambda word: -word["weight"])[:STRONGEST_WORDS]
            say(f"        words {', '.join(visible(word['word']) for word in best if word['weight'] > 0) or 'none'}")
        nothing = "no photograph" if "image" in each else "no text"
        say(f"        like  {', '.join(visible(near['label']) for near in each['nearest']) or nothing}")
    if explanations and "image" in explanations[0] and explanations[0]["heat"] is None:
        say("  no heat map: the model's classes do not follow from the means of its feature maps alone")
    if answer["page"]:
        say(f"  page  {visible(answer['page'])}")
