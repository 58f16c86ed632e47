"""An application under uvicorn, with the bounds that all servers here have."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import uvicorn

from deploy.serving.http_protocol import BoundedHttpProtocol
from tasks.errors import UsageError

GRACE_S = 20


def listen(app: Any, *, host: str, port: int, on_start: Callable[[str], None]) -> None:
    """Runs an ASGI application until SIGINT or SIGTERM.

    Args:
        port: 0 takes a free one.
        on_start: told the server's URL once it listens.

    Raises:
        UsageError: it can't listen there.
    """
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
