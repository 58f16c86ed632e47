"""`headstart serve`: the application under uvicorn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import uvicorn

from deploy.serving.app import create_app
from deploy.serving.hosts import AllowedHosts
from deploy.serving.http_protocol import BoundedHttpProtocol
from deploy.serving.limits import Limits
from deploy.serving.metrics import Metrics
from deploy.serving.model_slot import ModelSlot
from tasks.errors import UsageError
from tasks.storage.repository import published_models
from tasks.workspace import Workspace, check_name

DEFAULT_PORT = 8000  # of the Open Inference Protocol's servers
GRACE_S = 20


def serve(
    workspace: Workspace,
    name: str,
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    poll_s: float = 2.0,
    public_key: str | None = None,
    wait: bool = False,
    limits: Limits | None = None,
    allowed_hosts: Sequence[str] = (),
    on_start: Callable[[str], None] = lambda url: None,
) -> None:
    """Serves the newest verified version of `name` until SIGINT or SIGTERM.

    Args:
        host: an address to listen on; the default can be reached from this machine alone.
        port: 0 takes a free one.
        poll_s: seconds between two looks for a new version.
        public_key: PEM file; versions that are not signed with its key are refused.
        wait: start without a model, not ready, and serve the first version when it is published.
        allowed_hosts: names by which it may be asked, beside those of loopback and `host`; each may be several, with
            commas between them.
        on_start: told the server's URL once it listens.

    Raises:
        UsageError: there is no version that can be served, and `wait` is false; or the port is taken.
        ConfigError: `public_key` can't be read.
    """
    metrics = Metrics()
    slot = ModelSlot(
        workspace,
        check_name(name),
        public_key=public_key,
        observe_reload=lambda outcome: metrics.reloads.labels(outcome).inc(),
    )
    slot.refresh()
    if not slot.ready and not wait:
        raise UsageError(_nothing_to_serve(slot))
    names = [name for each in allowed_hosts for name in each.split(",")]
    app = create_app(slot, limits=limits, metrics=metrics, poll_s=poll_s, hosts=AllowedHosts(host, names))
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=BoundedHttpProtocol,
        access_log=False,
        log_level=logging.WARNING,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    try:
        _Announced(config, on_start).run()
    except SystemExit as exc:
        raise UsageError(f"can't listen on {host}:{port}; is the port taken? give another with --port") from exc


class _Announced(uvicorn.Server):
    """Says where it listens, which with port 0 only the socket knows."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[str], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        if self.started and self.servers:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_start(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")


def _nothing_to_serve(slot: ModelSlot) -> str:
    if slot.refusals:
        lines = [f"  - version {r.version}: {'; '.join(r.reasons)}" for r in slot.refusals.values()]
        return f"no version of {slot.name!r} can be served:\n" + "\n".join(lines)
    published = published_models(slot.workspace)
    found = f"published there: {', '.join(published)}" if published else "nothing is published there yet"
    return (
        f"there is no model {slot.name!r} in the workspace {slot.workspace.url}; {found}. "
        "Publish one with `headstart retrain`, or give --wait to start without"
    )
