"""Starts Prefect and the flow from the command line, in the order that is quickest.

Prefect is imported after its settings were made and while its server starts, so functions import what they need.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flows.cli.options import WatchFlags
from flows.cli.output import seconds_since_start
from tasks.display import STAGE_WIDTH, Progress, line
from tasks.processes import collect_as_usual

if TYPE_CHECKING:
    from flows.debounce import DebounceSettings
    from tasks.records import Run


def run_flow(
    source: str, name: str, config: Path | None, overrides: list[str], workspace: str, force: bool
) -> dict[str, Any]:
    """Checks everything that can be checked quickly, then hands over to Prefect.

    A run with nothing new ends before that, as a server of its own would keep it for nobody: 1 s instead of 5.
    """
    from flows.preflight import check_run
    from flows.server import configured_server
    from flows.summary import up_to_date
    from tasks.config import load_config
    from tasks.ingest.sources import with_task
    from tasks.runs import Account, new_run

    loaded = load_config(config, environ=os.environ, overrides=overrides)
    run = with_task(new_run(source, name, workspace, loaded))
    listing = check_run(run)
    if listing:
        found = "labelled texts" if run.config.task == "text" else "labelled files"
        line(f"  {'found':<{STAGE_WIDTH}}{len(listing.entries):,} {found}")
    began = time.perf_counter() - seconds_since_start()  # the report's time is what the user waited for
    if listing and not force and not configured_server() and (summary := up_to_date(run, listing, Account(began))):
        return summary
    # While Prefect's server starts on one core, the other imports what the stages need.
    server = _prefect()
    from flows.warmup import preload_if_new

    preload_if_new(run, force, listing)
    from flows.retrain import retrain as flow
    from tasks.orchestration import command_started

    _wait_for_no_heartbeat()

    if server:
        with Progress("start", None, "Prefect's server"):
            server.wait()
    command_started.set(began)
    return flow(source=source, name=name, workspace=workspace, config=run.config, force=force)  # type: ignore[return-value]


def run_demo_flow(workspace: str, text: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The demo's runs: what arrived, and the summary of the run."""
    from tasks.runs import new_run

    server = _prefect()
    from flows.demo import demo_config, run_demo
    from flows.warmup import preload

    _wait_for_no_heartbeat()

    preload(new_run("demo", "demo", workspace, demo_config(text)))
    if server:
        with Progress("start", None, "Prefect's server"):
            server.wait()
    yield from run_demo(workspace, text)


def watched_run(source: str, name: str, config: Path | None, overrides: list[str], workspace: str) -> Run:
    """The run to watch for, with absolute paths: runs are started in other processes."""
    from flows.debounce import absolute_source
    from flows.preflight import check_names
    from tasks.config import load_config
    from tasks.ingest.sources import check_source, with_task
    from tasks.runs import new_run

    loaded = load_config(config, environ=os.environ, overrides=overrides)
    check_names(loaded)
    place = workspace if "://" in workspace else str(Path(workspace).expanduser().absolute())
    run = with_task(new_run(absolute_source(source), name, place, loaded))
    check_source(run)
    run.workspace.check_writable()
    return run


def debounce_settings(flags: WatchFlags, source: str) -> DebounceSettings:
    """When new images are announced; a remote source is listed less often."""
    from flows.debounce import LOCAL_POLL_S, REMOTE_POLL_S, DebounceSettings

    poll_s = flags.poll or (REMOTE_POLL_S if "://" in source else LOCAL_POLL_S)
    return DebounceSettings(flags.quiet, flags.min_new, flags.max_wait, flags.marker, poll_s)


def watch_source(run: Run, settings: DebounceSettings, alive: Path | None = None) -> None:
    """Watches until Ctrl-C or SIGTERM; events go to the configured server."""
    with _stopping() as stop:
        _quiet_prefect()
        from flows.server import lasting_server

        server = lasting_server("watch")
        from flows.watch import watch

        collect_as_usual()
        _report(f"watching {run.source} for {run.name}; events go to {server} (Ctrl-C stops it)")
        watch(run, settings, stop, _report, alive)


def keep_model_fresh(run: Run, settings: DebounceSettings, nightly: str, port: int, pool: str | None) -> None:
    """Starts the server, then the rest."""
    from flows.debounce import absolute_source
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
        collect_as_usual()
        _report(f"Prefect: {f'{server.url} (for this machine, without a password)' if server else configured}")
        _report(f"watching {run.source} for {run.name}; everything is kept in {run.workspace.url} (Ctrl-C stops it)")
        keep_fresh(run, settings, nightly, server, stop, _report, absolute_source(pool) if pool else "")
        _report("stopped; the next start resumes what was interrupted")


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
    """Prints a line with the time on standard error."""
    typer.echo(f"{datetime.now():%H:%M:%S} {text}", err=True)


def _quiet_prefect() -> None:
    """Call it before Prefect is imported."""
    # Prefect's own log, with tracebacks, is on the run's page; the terminal shows our messages.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    # Some libraries print, and standard output is reserved for the result. (Redirecting it around each call is not
    # safe: two threads that do so at once can leave it redirected.)
    sys.stdout = sys.stderr


def _prefect():
    """Starts Prefect's ephemeral server where none is configured; call it before Prefect is imported."""
    _quiet_prefect()
    from flows.server import start_ephemeral_server

    return start_ephemeral_server()


def _wait_for_no_heartbeat() -> None:
    """A run waits for the thread of its heartbeats, which looks once a second whether the run has ended: half a
    second in the mean. Here that thread may end with the process, as Prefect has it in asynchronous flows."""
    from prefect import flow_engine

    flow_engine._send_heartbeats = partial(flow_engine._send_heartbeats, join_on_exit=False)
