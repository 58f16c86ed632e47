"""`headstart explain`: why the published model says what it says of a photograph."""

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
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.pool.explanation import Explanation

app = typer.Typer()


@app.command()
def explain(
    name: options.ModelName,
    images: options.Photographs,
    to: options.PageFile = None,
    workspace: options.Workspace = "./workspace",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show why the published model names a photograph's class: a heat map of where the evidence lies, and the three
    training photographs that it finds most similar, on one page.

    Exit status 2 where a file can't be used: the others are explained all the same.
    """
    from flows.cli.prediction import image_files
    from tasks.config import load_config
    from tasks.pool.explanation import explain as explain_images
    from tasks.pool.explanation_page import render_explanations
    from tasks.runs import new_run

    with plain_errors(), nullcontext() if as_json or quiet else showing():
        if to and to.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"--to takes a file ending with .html; found {to}")
        run = new_run("", name, workspace, load_config(environ=os.environ))
        files, skipped = image_files(map(Path, images))
        if skipped:
            typer.echo(f"skipped, since they can't be read as images: {skipped.total():,} files", err=True)
        version, explanations, faults = explain_images(run, list(dict.fromkeys(files)))
        page = render_explanations(run, version, explanations, faults).encode()
        answer = {
            "name": name,
            "version": int(version),
            "explanations": [_as_json(each) for each in explanations],
            "page": _write(run.workspace, f"explanations/{name}.html", to, page) if explanations else None,
            "faults": [{"image": image, "reason": reason} for image, reason in faults.items()],
        }
        if as_json:
            print_json(answer)
        else:
            _print(answer)
        if faults:
            raise UsageError("\n".join(f"{visible(image)}: {reason}" for image, reason in faults.items()))


def _as_json(each: Explanation) -> dict[str, Any]:
    """`heat` is the fall of the class's log-odds without each spot, row by row; null where the model has no maps."""
    (label, probability), *_ = each.classes
    return {
        "image": each.image,
        "label": label,
        "probability": probability,
        "classes": [{"label": name, "probability": share} for name, share in each.classes],
        "heat": None if each.heat is None else each.heat.round(4).tolist(),
        "nearest": [{"image": uri, "label": label} for uri, label in each.near],
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
        say(f"{each['probability']:6.1%}  {visible(each['label'])}  {visible(each['image'])}{doubt}")
        say(f"        like  {', '.join(visible(near['label']) for near in each['nearest']) or 'no photograph'}")
    if explanations and explanations[0]["heat"] is None:
        say("  no heat map: the model's classes do not follow from the means of its feature maps alone")
    if answer["page"]:
        say(f"  page  {visible(answer['page'])}")
