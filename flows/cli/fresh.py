"""`headstart up`, `watch` and `automations`: what keeps a model fresh."""

from __future__ import annotations

import typer

from flows.cli import options, running
from flows.cli.options import KeyFlags, WatchFlags
from flows.cli.output import plain_errors, print_json, say

app = typer.Typer()


@app.command()
def up(
    source: options.Source,
    name: options.Name = "default",
    config: options.ConfigFile = None,
    set_: options.Set = None,
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    engine: options.Engine = None,
    precision: options.Precision = None,
    quiet: options.SettleTime = 5.0,
    min_new: options.MinNew = 1,
    max_wait: options.MaxWait = 3600.0,
    marker: options.Marker = None,
    poll: options.Poll = None,
    nightly: options.Nightly = "0 3 * * *",
    pool: options.Pool = None,
    port: options.Port = 4200,
    workspace: options.Workspace = "./workspace",
) -> None:
    """Keep a model fresh on this machine: Prefect's server and UI, the deployments, their runner, and the sensor.

    Ctrl-C stops all that it started. Started again, it resumes what was interrupted. Where PREFECT_API_URL or a profile
    names a server, that one is used and none is started.
    """
    keys = KeyFlags(set_=set_, backbone=backbone, weights=weights, engine=engine, precision=precision)
    sensor = WatchFlags(quiet=quiet, min_new=min_new, max_wait=max_wait, marker=marker, poll=poll)
    with plain_errors():
        run = running.watched_run(source, name, config, keys.overrides(), workspace)
        running.keep_model_fresh(run, running.debounce_settings(sensor, run.source), nightly, port, pool)


@app.command()
def watch(
    source: options.Source,
    name: options.Name = "default",
    config: options.ConfigFile = None,
    set_: options.Set = None,
    quiet: options.SettleTime = 5.0,
    min_new: options.MinNew = 1,
    max_wait: options.MaxWait = 3600.0,
    marker: options.Marker = None,
    poll: options.Poll = None,
    alive: options.Alive = None,
    workspace: options.Workspace = "./workspace",
) -> None:
    """Watch a source alone: new labelled images or texts that have settled become one event, headstart.labels.arrived.

    It needs a Prefect server (PREFECT_API_URL, or a profile), and there a deployment with a trigger on that event, as
    deploy/prefect.yaml declares it.
    """
    sensor = WatchFlags(quiet=quiet, min_new=min_new, max_wait=max_wait, marker=marker, poll=poll)
    with plain_errors():
        run = running.watched_run(source, name, config, KeyFlags(set_=set_).overrides(), workspace)
        running.watch_source(run, running.debounce_settings(sensor, run.source), alive)


@app.command()
def automations(webhook: options.Webhook = None, silence: options.Silence = 420, as_json: options.Json = False) -> None:
    """Put the shipped automations on the Prefect server: crashed runs are started again, and failures are posted.

    The server is the one of PREFECT_API_URL, or of the active Prefect profile. Give it again and nothing is doubled.
    """
    with plain_errors():
        from flows.server import lasting_server

        lasting_server("automations")
        from flows.automations import apply_automations

        names = apply_automations(webhook, silence)
        if as_json:
            print_json({"automations": names})
        else:
            say("\n".join(names))
