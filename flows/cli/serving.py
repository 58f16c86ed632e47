"""`headstart serve`: a published model over HTTP."""

from __future__ import annotations

import typer

from deploy.serving.limits import CollectLimits
from flows.cli import options
from flows.cli.output import plain_errors
from tasks.processes import collect_as_usual
from tasks.workspace import Workspace, check_name

app = typer.Typer()


@app.command()
def serve(
    name: options.ModelName,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8000,
    public_key: options.PublicKey = None,
    wait: options.Wait = False,
    allowed_hosts: options.AllowedHosts = None,
    collect: options.Collect = None,
    collect_images: options.CollectImages = CollectLimits.max_images,
    collect_mb: options.CollectMb = CollectLimits.max_mb,
    collect_days: options.CollectDays = CollectLimits.days,
    show_training: options.ShowTraining = False,
    workspace: options.Workspace = "./workspace",
) -> None:
    """Serve the model over HTTP: Open Inference Protocol v2, POST /classify and /explain, a web page, metrics."""
    from deploy.serving.server import serve as serve_model

    def on_start(url: str) -> None:
        collect_as_usual()
        typer.echo(f"{name} is served at {url} (Ctrl-C stops it)", err=True)

    with plain_errors():
        serve_model(
            Workspace(workspace),
            check_name(name),
            host=host,
            port=port,
            public_key=public_key,
            wait=wait,
            allowed_hosts=allowed_hosts or (),
            collect=collect,
            collect_limits=CollectLimits(max_images=collect_images, max_mb=collect_mb, days=collect_days),
            show_training=show_training,
            on_start=on_start,
        )
