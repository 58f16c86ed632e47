"""`headstart backbone inspect`: what an ONNX file needs to be a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli import options
from flows.cli.output import plain_errors, print_json, say

app = typer.Typer(help="Networks given as ONNX files.", no_args_is_help=True)


@app.callback()
def backbone() -> None:
    """Networks given as ONNX files."""


@app.command()
def inspect(
    file: Annotated[
        Path,
        typer.Argument(help="An ONNX file of a network of images, or of an encoder of texts.", metavar="FILE.onnx"),
    ],
    photos: Annotated[
        Path | None, typer.Option(help="A folder with a subfolder a class: ordinary normalisations are tried on it.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show what a network takes and gives, and propose its description, FILE.toml."""
    from tasks.networks.onnx_inspection import inspect_network

    with plain_errors():
        found = inspect_network(file, photos)
        if as_json:
            print_json(found)
            return
        say(f"# {file}: {found['size_mb']:.1f} MB; input {found['input']}; outputs {', '.join(found['outputs'])}")
        for layer in found["layers"]:
            say(f"# late block: {layer['name']}, {layer['width']} features")
        for row in found["probe"]:
            say(f"# accuracy {row['accuracy']:.3f} of a linear classifier with {row['normalisation']}")
        say(found["description"])
        for warning in found["warnings"]:
            say(f"# warning: {warning}")
