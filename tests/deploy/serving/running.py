"""A real server on loopback, in a thread of the test's process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from deploy.serving.app import create_app
from deploy.serving.collecting import Collector
from deploy.serving.hosts import AllowedHosts
from deploy.serving.http_protocol import BoundedHttpProtocol
from deploy.serving.limits import Limits
from deploy.serving.metrics import Metrics
from deploy.serving.model_slot import ModelSlot
from tasks.workspace import Workspace

LIMITS = Limits(max_body_bytes=200_000, max_pixels=100_000)  # of a server that is to refuse what is a little large


@contextmanager
def running(
    workspace: Path | str,
    *,
    name: str = "colours",
    poll_s: float = 60.0,
    limits: Limits | None = None,
    metrics: Metrics | None = None,
    collector: Collector | None = None,
    hosts: AllowedHosts | None = None,
    show_training: bool = False,
    **slot: Any,
) -> Iterator[str]:
    """The URL of a server of `name`; stopped in an orderly way at the end."""
    model_slot = ModelSlot(Workspace(str(workspace)), name, **slot)
    model_slot.refresh()
    app = create_app(
        model_slot,
        limits=limits,
        metrics=metrics,
        poll_s=poll_s,
        hosts=hosts,
        collector=collector,
        show_training=show_training,
    )
    with running_app(app) as url:
        yield url


@contextmanager
def running_app(app: Any) -> Iterator[str]:
    """The URL of a server of an ASGI application."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, http=BoundedHttpProtocol, log_level="warning", access_log=False)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
