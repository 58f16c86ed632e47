"""`headstart next` and `headstart replay`: what to label next, and whether that is worth it."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import typer

from flows.cli import options
from flows.cli.output import plain_errors, print_json, say
from tasks.display import showing, visible
from tasks.errors import UsageError
from tasks.workspace import Workspace, check_name

app = typer.Typer()

FORMATS = (".json", ".csv")


@app.command("next")
def choose_next(
    name: options.ModelName,
    pool: options.Pool = None,
    count: options.Count = 200,
    to: options.BatchFile = None,
    again: options.Again = False,
    config: options.ConfigFile = None,
    set_: options.Set = None,
    workspace: options.Workspace = "./workspace",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Choose the images or texts of a pool that are worth a person's time, each once: what the published model is
    unsure of, what is unlike anything labelled, and some at random.

    Without --pool the batch that was chosen last is written again.
    """
    from tasks.pool.batches import last_batch

    with plain_errors(), nullcontext() if as_json or quiet else showing():
        place = Workspace(workspace)
        _check_file(to)
        folder = _choose(place, name, pool, count, again, config, set_) if pool else last_batch(place, check_name(name))
        answer = _answer(place, name, folder)
        if to:
            _write_file(to, place.read_bytes(f"{folder}/next{to.suffix.lower()}"))
            answer["file"] = str(to)
        if as_json:
            print_json(answer)
        else:
            _print(answer)


@app.command()
def replay(
    name: options.ModelName,
    seeds: options.Seeds = 5,
    to: options.ChartFile = None,
    config: options.ConfigFile = None,
    set_: options.Set = None,
    workspace: options.Workspace = "./workspace",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Replay the labelling of a model's own images: how many labels `next` would have saved against choosing at random.

    From stored features alone; a minute or so.
    """
    from tasks.config import load_config
    from tasks.pool.cut import cut_champion
    from tasks.pool.replay import replay as replay_labels
    from tasks.pool.replay_chart import replay_chart
    from tasks.runs import new_run

    with plain_errors(), nullcontext() if as_json or quiet else showing():
        if to and to.suffix.lower() != ".svg":
            raise UsageError(f"--to takes a file ending with .svg; found {to}")
        run = new_run("", name, workspace, load_config(config, environ=os.environ, overrides=set_ or []))
        cut = cut_champion(run.workspace, name)
        found = replay_labels(run, cut, seeds)
        title = f"{name}: accuracy on {found.held_out:,} held-out {cut.task}s"
        if to:
            _write_file(to, replay_chart(found, title))
        if as_json:
            print_json({"name": name, **found.as_dict()})
        else:
            _print_replay(title, found.as_dict())


def _print_replay(title: str, found: dict[str, Any]) -> None:
    say(f"{title}, mean of {found['seeds']} seeds (95 % interval)", bold=True)
    say("  labels   chosen                  random")
    for labels, *curves in zip(found["labels"], *found["accuracy"].values(), strict=True):
        shown = "   ".join(f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in curves)
        say(f"  {labels:>6,}   {shown}")
    for target in found["targets"]:
        chosen, random = target["labels"].values()
        low, high = target["interval"]
        say(
            f"  {target['share_of_full']:.0%} of the accuracy with all labels: {chosen:,} labels chosen, {random:,} at "
            f"random: {target['ratio']:.2f} times as many ({low:.2f} to {high:.2f})"
        )


def _choose(
    workspace: Workspace,
    name: str,
    pool: str,
    count: int,
    again: bool,
    config: Path | None,
    overrides: list[str] | None,
) -> str:
    """The folder of a new batch."""
    from tasks.config import load_config
    from tasks.pool.stage import batch_run, choose_batch, see
    from tasks.runs import new_run, one_at_a_time

    loaded = load_config(config, environ=os.environ, overrides=overrides or [])
    run = new_run(pool, name, workspace.url, loaded)
    with one_at_a_time(batch_run(run)):
        return choose_batch(run, see(run), count, again).folder


def _answer(workspace: Workspace, name: str, folder: str) -> dict[str, Any]:
    """What `--json` prints."""
    from tasks.pool.batches import read_summary

    files = {key: workspace.display(f"{folder}/next.{key}") for key in ("json", "csv", "html")}
    interface = workspace.display(f"{folder}/label_studio.xml")
    return {"name": name, **read_summary(workspace, folder), "files": {**files, "interface": interface}}


def _print(answer: dict[str, Any]) -> None:
    counts, items = answer["chosen"], answer.get("items", "images")
    say(
        f"{answer['name']}: {answer['images']:,} of {answer['pool']['images']:,} {items} to label",
        bold=True,
    )
    for reason, number in counts.items():
        say(f"  {number:>6,}  {reason}")
    if answer["pool"]["faults"]:
        say(f"  {answer['pool']['faults']:>6,}  files of the pool left out; the page names them")
    say(f"  page    {visible(answer['files']['html'])}")
    say(f"  labels  {visible(answer.get('file') or answer['files']['json'])}")


def _check_file(to: Path | None) -> None:
    if to and to.suffix.lower() not in FORMATS:
        raise UsageError(f"--to takes a file ending with {' or '.join(FORMATS)}; found {to}")


def _write_file(to: Path, content: bytes) -> None:
    Workspace(str(to.absolute().parent)).write_bytes(to.name, content)
