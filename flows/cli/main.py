"""The `headstart` command. Heavy imports happen inside the commands: `--help` answers at once."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer

from tasks.errors import HeadstartError
from tasks.garbage import collect_rarely
from tasks.workspace import Workspace, check_name

if TYPE_CHECKING:
    from flows.debounce import DebounceSettings
    from tasks.records import Run

app = typer.Typer(
    name="headstart",
    help="Turns a growing folder of labelled images into a deployable ONNX classifier, and does it again "
    "whenever new labels arrive.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

quarantine = typer.Typer(help="What was left out and why; let it in, or leave it out for good.", no_args_is_help=True)
app.add_typer(quarantine, name="quarantine")

REFUSED, INVALID_DATA = 3, 4
WorkspaceOption = Annotated[
    str, typer.Option(envvar="HEADSTART_WORKSPACE", help="Where everything is kept: a folder, or an fsspec URL.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")]
NameOption = Annotated[str, typer.Option(help="The model's name: its folder in the model repository.")]
SourceArgument = Annotated[
    str,
    typer.Argument(
        help="A folder with a subfolder a class (or train/, validation/ and test/ above those); a .csv, .jsonl or "
        ".parquet of path,label[,split]; Label Studio's .json export; tfds:NAME; or any of these behind an fsspec URL."
    ),
]
ConfigOption = Annotated[Optional[Path], typer.Option(help="A TOML file; see `headstart config`.")]  # noqa: UP045
SetOption = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads these
    typer.Option("--set", metavar="KEY=VALUE", help="Set one key, such as finetune.learning_rate=0.001."),
]
BackboneOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="The pre-trained network: mobilenet_v2, embedded, resnet50, …; several, with commas: --auto."),
]
WeightsOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="'imagenet', or the path of a weights file (no top)."),
]
EngineOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="What runs the feature extractor: onnxruntime, tensorflow, or auto (TensorFlow where it has a GPU)."
    ),
]
PrecisionOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Of the feature extractor: fp32, or int8, which is twice as fast on a processor, and ships."),
]
QuietOption = Annotated[
    float,
    typer.Option(min=0, help="Seconds for which no file may have changed: a copy in progress is never half read."),
]
MinNewOption = Annotated[int, typer.Option(min=1, help="New images that are worth a run …")]
MaxWaitOption = Annotated[float, typer.Option(min=0, help="… and the seconds after which fewer are.")]
MarkerOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="FILE",
        help="Instead of waiting for quiet: a file, in the source's folder or anywhere, that is written anew after "
        "each delivery.",
    ),
]
PollOption = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(min=0.1, help="Seconds between two looks at the source; 1 for a folder, 10 elsewhere."),
]


@app.command()
def retrain(
    source: SourceArgument,
    name: NameOption = "default",
    config: ConfigOption = None,
    set_: SetOption = None,
    backbone: BackboneOption = None,
    weights: WeightsOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="Let validation choose backbone, boundary, views, head and regularisation.")
    ] = False,
    runner: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Where images are inspected and embedded: threads, or dask."),
    ] = None,
    dask_address: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A Dask scheduler's address; without one, dask starts a cluster on this machine."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run although nothing is new.")] = False,
    workspace: WorkspaceOption = "./workspace",
    as_json: JsonOption = False,
) -> None:
    """Run the whole flow once, here and now.

    Exit status: 0 promoted, or nothing new; 1 a fault; 2 bad usage, configuration or source; 3 the gates refused
    the challenger; 4 the data failed validation.
    """
    with _plain_errors():
        overrides = _overrides(set_, backbone, weights, engine, precision, auto, runner, dask_address)
        summary = _run_flow(source, name, config, overrides, workspace, force)
        _print_summary(summary, as_json)
    raise typer.Exit({"refused": REFUSED, "invalid-data": INVALID_DATA}.get(summary["verdict"], 0))


@app.command()
def up(
    source: SourceArgument,
    name: NameOption = "default",
    config: ConfigOption = None,
    set_: SetOption = None,
    backbone: BackboneOption = None,
    weights: WeightsOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    quiet: QuietOption = 5.0,
    min_new: MinNewOption = 1,
    max_wait: MaxWaitOption = 3600.0,
    marker: MarkerOption = None,
    poll: PollOption = None,
    nightly: Annotated[str, typer.Option(metavar="CRON", help="When to look without being told.")] = "0 3 * * *",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the server and its UI; 0 takes a free one.")] = 4200,
    workspace: WorkspaceOption = "./workspace",
) -> None:
    """Keep a model fresh on this machine: Prefect's server and UI, the deployments, their runner, and the sensor.

    Ctrl-C stops all that it started. Started again, it goes on where it was. Where PREFECT_API_URL or a profile names
    a server, that one is used and none is started.
    """
    with _plain_errors():
        overrides = _overrides(set_, backbone, weights, engine, precision)
        run = _watched_run(source, name, config, overrides, workspace)
        settings = _patience(quiet, min_new, max_wait, marker, poll, run.source)
        _keep_fresh(run, settings, nightly, port)


@app.command()
def watch(
    source: SourceArgument,
    name: NameOption = "default",
    config: ConfigOption = None,
    set_: SetOption = None,
    quiet: QuietOption = 5.0,
    min_new: MinNewOption = 1,
    max_wait: MaxWaitOption = 3600.0,
    marker: MarkerOption = None,
    poll: PollOption = None,
    workspace: WorkspaceOption = "./workspace",
) -> None:
    """Watch a source alone: new labelled images that have settled become one event, headstart.labels.arrived.

    It needs a Prefect server (PREFECT_API_URL, or a profile), and there a deployment with a trigger on that event, as
    deploy/prefect.yaml declares it.
    """
    with _plain_errors(), _stopping() as stop:
        run = _watched_run(source, name, config, list(set_ or []), workspace)
        settings = _patience(quiet, min_new, max_wait, marker, poll, run.source)
        _quiet_prefect()
        from flows.watch import check_server
        from flows.watch import watch as watch_source

        _report(f"watching {run.source} for {name}; events go to {check_server()} (Ctrl-C stops it)")
        watch_source(run, settings, stop, _report)


@app.command()
def demo(workspace: WorkspaceOption = "./workspace", as_json: JsonOption = False) -> None:
    """Show the whole flow on handwritten digits: no network, no account, under two minutes."""
    with _plain_errors():
        Workspace(workspace).check_writable()
        summaries = []
        for arrived, summary in _run_demo(workspace):
            summaries.append(summary)
            if not as_json:
                say(typer.style(f"\n{arrived}", fg="cyan"))
                _print_summary(summary, as_json=False)
        if as_json:
            _print_json({"runs": summaries})
        else:
            say(f"\nOpen the report: {summaries[-1]['report']}")
            say("Now your own photographs: headstart retrain FOLDER --name NAME, a subfolder a class")


@app.command()
def status(
    name: Annotated[Optional[str], typer.Argument(help="A model; all of them by default.")] = None,  # noqa: UP045
    workspace: WorkspaceOption = "./workspace",
    as_json: JsonOption = False,
) -> None:
    """Show the champion, the history, and the last decision with its reasons."""
    from flows.cli.status import model_status, status_text

    with _plain_errors():
        place = Workspace(workspace)
        names = [check_name(name)] if name else place.names("models")
        found = [model_status(place, each) for each in names]
        if as_json:
            _print_json(found[0] if name else {"models": found})
        else:
            say("\n\n".join(map(status_text, found)) or f"no models in {workspace} yet; run headstart retrain")


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="A model's name in the workspace, or the path of a model.onnx.")],
    images: Annotated[list[Path], typer.Argument(help="Photographs.")],
    workspace: WorkspaceOption = "./workspace",
    as_json: JsonOption = False,
) -> None:
    """Name the class and its probability for each image, through ONNX Runtime and nothing heavier."""
    from flows.cli.prediction import load_model, predict_images

    with _plain_errors():
        predictions = predict_images(load_model(Workspace(workspace), model), images)
        if as_json:
            _print_json({"predictions": predictions})
        else:
            for row in predictions:
                say(f"{row['probability']:6.1%}  {row['label']}  {row['image']}")


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    to: Annotated[Optional[int], typer.Option(help="The version to publish again; by default the one before.")] = None,  # noqa: UP045
    workspace: WorkspaceOption = "./workspace",
    as_json: JsonOption = False,
) -> None:
    """Publish an earlier version again, as a new one."""
    from tasks.publish.rollback import roll_back

    with _plain_errors():
        done = roll_back(Workspace(workspace), check_name(name), to)
        if as_json:
            _print_json(done)
        else:
            say(f"{name}: version {done['restored']} is in service again, as version {done['version']}")


@app.command()
def promote(
    run: Annotated[str, typer.Argument(help="A refused run's id, as `headstart status` shows it.")],
    by: Annotated[str, typer.Option(help="Who answers for it.")],
    reason: Annotated[str, typer.Option(help="Why the gates are overridden.")],
    workspace: WorkspaceOption = "./workspace",
    as_json: JsonOption = False,
) -> None:
    """Publish a candidate that the gates refused, under a name and with a reason, which its model card will show.

    Gates that had no evidence, parity, and a file that does not serve can't be overridden: exit status 3.
    """
    from tasks.publish.promote import promote as promote_run
    from tasks.report.page import write_report

    with _plain_errors():
        promoted, done = promote_run(Workspace(workspace), run, by=by, reason=reason)
        write_report(promoted)
        if as_json:
            _print_json(done)
        else:
            say(f"{done['name']}: the candidate of {run} is in service as version {done['version']}")


@app.command()
def verify(
    model_dir: Annotated[str, typer.Argument(help="A version's folder, such as workspace/models/clothing/3.")],
    public_key: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(envvar="HEADSTART_PUBLIC_KEY", help="PEM file of the key that the version must be signed with."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a published version: digests, signature, graph, parity evidence and gate decision.

    Exit status: 0 all is well; 1 something is not.
    """
    from dataclasses import asdict

    from tasks.publish.verify import verify as verify_version

    with _plain_errors():
        found = verify_version(model_dir, public_key=public_key)
        if as_json:
            _print_json({"model_dir": model_dir, "ok": found.ok, "checks": [asdict(check) for check in found.checks]})
        else:
            marks = {True: "ok  ", False: "FAIL", None: "-   "}
            for check in found.checks:
                say(f"{marks[check.passed]} {check.name}: {check.detail}")
    raise typer.Exit(0 if found.ok else HeadstartError.exit_status)


@app.command()
def serve(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    host: Annotated[str, typer.Option(help="Address to listen on; the default is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    public_key: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(envvar="HEADSTART_PUBLIC_KEY", help="PEM file of the key that versions must be signed with."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Start before the first version is published.")] = False,
    workspace: WorkspaceOption = "./workspace",
) -> None:
    """Serve the model over HTTP: Open Inference Protocol v2, POST /classify, a web page, metrics."""
    from deploy.serving.server import serve as serve_model

    with _plain_errors():
        serve_model(
            Workspace(workspace),
            check_name(name),
            host=host,
            port=port,
            public_key=public_key,
            wait=wait,
            on_start=lambda url: typer.echo(f"{name} is served at {url} (Ctrl-C stops it)", err=True),
        )


@app.command()
def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be freed.")] = False,
    workspace: WorkspaceOption = "./workspace",
    as_json: JsonOption = False,
) -> None:
    """Free space: merge small parts, remove what no model needs any more. Models and snapshots are never touched."""
    from flows.cli.clean import clean as clean_workspace
    from flows.cli.clean import cleaned_text

    with _plain_errors():
        done = clean_workspace(Workspace(workspace), dry_run=dry_run)
        if as_json:
            _print_json(done.as_dict())
        else:
            say(cleaned_text(done))


@app.command()
def automations(
    webhook: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(envvar="HEADSTART_WEBHOOK", help="Where failures, crashes and refusals are posted: an https URL."),
    ] = None,
    silence: Annotated[
        int,
        typer.Option(
            min=61,
            help="Seconds without a heartbeat after which a run counts as crashed: more than twice their period, which "
            "is PREFECT_FLOWS_HEARTBEAT_FREQUENCY where the runs are, or 180.",
        ),
    ] = 420,
    as_json: JsonOption = False,
) -> None:
    """Put the shipped automations on the Prefect server: crashed runs are started again, and what fails is told.

    The server is the one of PREFECT_API_URL, or of the active Prefect profile. Give it again and nothing is doubled.
    """
    with _plain_errors():
        from flows.automations import apply_automations

        names = apply_automations(webhook, silence)
        if as_json:
            _print_json({"automations": names})
        else:
            say("\n".join(names))


@quarantine.command(name="list")
def list_quarantined(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    workspace: WorkspaceOption = "./workspace",
    as_json: JsonOption = False,
) -> None:
    """List what was left out, and why: status, date, snapshot, digest, label, path and reason, a file a line."""
    from tasks.storage.quarantine import list_quarantine

    with _plain_errors():
        entries = list_quarantine(Workspace(workspace), check_name(name))
        if as_json:
            _print_json({"quarantine": entries})
            return
        for entry in entries:
            seen = f"{entry['date'][:10]}  {entry['snapshot'] or '-':16}  {(entry['sha256'] or '-')[:12]:12}"
            say(f"{entry['status']:8}  {seen}  {entry['label'] or '-'}  {entry['path']}: {entry['reason']}")
        say(f"{len(entries)} files")


FilesArgument = Annotated[list[str], typer.Argument(help="Paths, or digests, as `quarantine list` shows them.")]


@quarantine.command(name="release")
def release_quarantined(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    files: FilesArgument,
    workspace: WorkspaceOption = "./workspace",
) -> None:
    """Let images in that an expectation rejected, from the next run on."""
    from tasks.storage.quarantine import release

    with _plain_errors():
        say(f"{len(release(Workspace(workspace), check_name(name), files))} released")


@quarantine.command(name="drop")
def drop_quarantined(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    files: FilesArgument,
    workspace: WorkspaceOption = "./workspace",
) -> None:
    """Leave files out for good: later runs neither use nor report them. The files themselves are not touched."""
    from tasks.storage.quarantine import drop

    with _plain_errors():
        say(f"{len(drop(Workspace(workspace), check_name(name), files))} dropped")


@app.command(name="config")
def show_config() -> None:
    """List every key of the configuration with its default and its meaning."""
    from flows.cli.config_table import config_lines

    say("\n".join(config_lines()))


def main() -> None:
    """The console script's entry point."""
    collect_rarely()
    app()


def _run_flow(
    source: str, name: str, config: Path | None, overrides: list[str], workspace: str, force: bool
) -> dict[str, Any]:
    """Checks everything that can be checked quickly, then hands over to Prefect."""
    from flows.preflight import check_run
    from tasks.config import load_config
    from tasks.ingest import ahead
    from tasks.runs import finished_runs, new_run

    loaded = load_config(config, environ=os.environ, overrides=overrides)
    run = new_run(source, name, workspace, loaded)
    listing = check_run(run)
    # While Prefect's server starts on one core, the other reads the images and imports what their stages need.
    server = _prefect()
    first = next(finished_runs(run.workspace, name), None) is None
    inspection = ahead.start(run) if first and loaded.scale.runner == "threads" else None
    from flows.warmup import preload_if_new

    preload_if_new(run, force, listing)
    from flows.retrain import retrain as flow

    if server:
        server.wait()
    if inspection:
        inspection.wait()
    return flow(source=source, name=name, workspace=workspace, config=loaded, force=force)  # type: ignore[return-value]


def _overrides(
    set_: list[str] | None,
    backbone: str | None,
    weights: str | None,
    engine: str | None,
    precision: str | None,
    auto: bool = False,
    runner: str | None = None,
    dask_address: str | None = None,
) -> list[str]:
    """The flags that stand for keys of the configuration, as `section.key=value`; they win over `--set`."""
    names = (backbone or "").split(",")
    flags = {
        "backbone.name": names[0],
        "auto.backbones": json.dumps(names) if len(names) > 1 else None,
        "auto.enabled": "true" if auto else None,
        "backbone.weights": weights,
        "backbone.precision": precision,
        "extract.engine": engine,
        "scale.runner": runner,
        "scale.dask_address": dask_address,
    }
    return [*(set_ or []), *(f"{key}={value}" for key, value in flags.items() if value)]


def _watched_run(source: str, name: str, config: Path | None, overrides: list[str], workspace: str) -> Run:
    """What is to be watched. Paths are made absolute: runs are started in other processes."""
    from flows.debounce import absolute_source
    from tasks.config import load_config
    from tasks.ingest.sources import check_source
    from tasks.runs import new_run

    loaded = load_config(config, environ=os.environ, overrides=overrides)
    place = workspace if "://" in workspace else str(Path(workspace).expanduser().absolute())
    run = new_run(absolute_source(source), name, place, loaded)
    check_source(run)
    run.workspace.check_writable()
    return run


def _patience(
    quiet: float, min_new: int, max_wait: float, marker: str | None, poll: float | None, source: str
) -> DebounceSettings:
    from flows.debounce import LOCAL_POLL_S, REMOTE_POLL_S, DebounceSettings

    return DebounceSettings(
        quiet, min_new, max_wait, marker, poll or (REMOTE_POLL_S if "://" in source else LOCAL_POLL_S)
    )


def _keep_fresh(run: Run, settings: DebounceSettings, nightly: str, port: int) -> None:
    """Starts the server, then the rest."""
    from flows.preflight import check_setup

    check_setup(run)
    with _stopping() as stop:
        # For a configured server with our automations, which may call a run crashed that is silent for 90 s, as those
        # of deploy/compose.yaml do; the runs' processes take this over.
        os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
        _quiet_prefect()
        from flows.server import configured_server, start_lasting_server

        configured = configured_server()
        server = None if configured else start_lasting_server(port)
        from flows.up import keep_fresh

        if server:
            server.wait()
        _report(f"Prefect: {server.url if server else configured}")
        _report(f"watching {run.source} for {run.name}; everything is kept in {run.workspace.url} (Ctrl-C stops it)")
        keep_fresh(run, settings, nightly, server, stop, _report)
        _report("stopped; start it again and it goes on where it was")


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(text: str) -> None:
    """A line about what goes on, on standard error."""
    typer.echo(f"{datetime.now():%H:%M:%S} {text}", err=True)


def _run_demo(workspace: str) -> Iterator[tuple[str, dict[str, Any]]]:
    from tasks.runs import new_run

    server = _prefect()
    from flows.demo import NAME, demo_config, run_demo
    from flows.warmup import preload

    preload(new_run(f"tfds:{NAME}", NAME, workspace, demo_config()))
    if server:
        server.wait()
    yield from run_demo(workspace)


def _quiet_prefect() -> None:
    """Call it before Prefect is imported."""
    # Prefect's own log, tracebacks included, goes to the run's page; here a person reads our messages.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    # Some libraries print; standard output is the answer's alone. (Turning it aside around each is no way: two threads
    # that do so at once can leave it turned aside for good.)
    sys.stdout = sys.stderr


def _prefect():
    """Starts Prefect's ephemeral server where none is configured; call it before Prefect is imported."""
    _quiet_prefect()
    from flows.server import start_ephemeral_server

    return start_ephemeral_server()


def _print_summary(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(summary)
        return
    test = summary["metrics"].get("test", {})
    say(typer.style(f"{summary['name']}: {summary['verdict']}", bold=True))
    for reason in summary["reasons"]:
        say(f"  {reason}")
    if test:
        say(f"  test accuracy {test['accuracy']:.3f} on {test['n']} images")
    for what in ("model", "report"):
        if summary[what]:
            say(f"  {what}: {summary[what]}")


def say(text: str) -> None:
    """Prints to the real standard output, wherever `sys.stdout` leads by now."""
    typer.echo(text, file=sys.__stdout__)


def _print_json(value: Any) -> None:
    say(json.dumps(value, ensure_ascii=False))


@contextmanager
def _plain_errors() -> Iterator[None]:
    """A user's mistake and a fault of ours both end in a sentence and an exit status, not in a traceback."""
    try:
        yield
    except HeadstartError as exc:
        _fail(str(exc), exc.exit_status)
    except KeyboardInterrupt:
        _fail("interrupted; run it again and it goes on where it was", 130)
    except Exception as exc:
        if os.environ.get("HEADSTART_TRACEBACK"):
            raise
        _fail(
            f"an unexpected fault, {type(exc).__name__}: {exc}\n"
            "The run's log has the rest; HEADSTART_TRACEBACK=1 shows where it happened.",
            HeadstartError.exit_status,
        )


def _fail(message: str, status: int) -> NoReturn:
    typer.echo(f"headstart: {message}", err=True)
    raise typer.Exit(status)


if __name__ == "__main__":
    sys.exit(main())
