"""Prefect's server as a child of this process: the ephemeral one of a single run, or one with UI and services.

Prefect starts an ephemeral one by itself, but only when the first flow runs: then its 8 s come after the 3 s of
Prefect's own import, and the other core idles. So it is started here, before Prefect is even imported. Where a server
is configured (PREFECT_API_URL, or a profile), that one is used and nothing is started.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.errors import HeadstartError, UsageError
from tasks.processes import child_environ, collect_as_usual, collect_rarely, end_with_input, module_command

STARTUP_TIMEOUT_S = 120
# As Prefect starts its ephemeral server: no UI, no background services.
EPHEMERAL = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
# A server that stays. Its leases outlive a restart, which else cancels healthy runs under a concurrency limit.
LASTING = {
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # What automations wait for outlives it, too: Prefect's default is a minute, after which a silent run is forgotten.
    "PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER": "P7D",
}
# Its database would grow for good: runs, their logs and artifacts are deleted after 90 days. (Events are after 7, by
# Prefect's default.) Whoever sets one of these variables decides instead.
RETENTION = {
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(90 * 24 * 3600),
}


class LocalServer:
    """A server process of this one's, on the loopback interface; its URL goes into the environment."""

    def __init__(self, port: int, environ: Mapping[str, str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process that writes it
        self.url = f"http://127.0.0.1:{port}"
        self.api_url = f"{self.url}/api"
        # The server ends with its standard input, and so with this process, however this one ends. It has
        # a session of its own, so Ctrl-C does not reach it: it is stopped last, after the runs have reported their end.
        self._process = subprocess.Popen(
            module_command("flows.server", str(port)),
            env=child_environ(**environ),
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        os.environ["PREFECT_API_URL"] = self.api_url

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def log(self) -> str:
        """What the server wrote to its log."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace").strip()

    def wait(self) -> None:
        """Returns once the server answers. Raises HeadstartError where it does not come up."""
        deadline = time.monotonic() + STARTUP_TIMEOUT_S
        while not self._answers():
            if self.ended or time.monotonic() > deadline:
                raise HeadstartError(f"Prefect's server did not come up at {self.api_url}; its log:\n{self.log()}")
            time.sleep(0.05)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.environ.pop("PREFECT_API_URL", None)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.api_url}/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False


class EphemeralServer(LocalServer):
    """A server without UI and services, on a free port."""

    def __init__(self) -> None:
        super().__init__(_free_port(), EPHEMERAL)


def start_ephemeral_server() -> EphemeralServer | None:
    """A server that goes with this process, or None where the user has configured one.

    Call it before Prefect is imported: what is registered first at exit runs last, and Prefect, on its way out, still
    sends its last events.
    """
    if configured_server():
        return None
    server = EphemeralServer()
    atexit.register(server.stop)
    return server


def start_lasting_server(port: int) -> LocalServer:
    """A server with UI, schedules and automations, whose database is in PREFECT_HOME; not waited for.

    Raises:
        UsageError: the port is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the last one's connections may linger
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            raise UsageError(
                f"port {port} of 127.0.0.1 can't be used ({exc.strerror}): give another one with --port; or, where a "
                f"Prefect server has it, set PREFECT_API_URL=http://127.0.0.1:{port}/api to use that one"
            ) from exc
        port = probe.getsockname()[1]
    server = LocalServer(port, lasting_settings(port))
    atexit.register(server.stop)
    return server


def lasting_settings(port: int) -> dict[str, str]:
    """The variables of a server that stays."""
    url = f"http://127.0.0.1:{port}"
    where = {
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_UI_API_URL": f"{url}/api",
        # A page of another site, open in the same browser, may not start runs.
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"{url},http://localhost:{port}",
    }
    retention = {name: value for name, value in RETENTION.items() if name not in os.environ}
    return LASTING | retention | where


def configured_server() -> str | None:
    """The API address that PREFECT_API_URL or the active profile names. Prefect's own answer would cost its import."""
    if address := os.environ.get("PREFECT_API_URL"):
        return address
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    try:
        known = tomllib.loads((home / "profiles.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    active = os.environ.get("PREFECT_PROFILE") or known.get("active")
    return known.get("profiles", {}).get(active, {}).get("PREFECT_API_URL")


def lasting_server(command: str) -> str:
    """The API address of the configured server, for a command that needs one which stays.

    Raises UsageError where none is configured: Prefect would start one of its own, which goes with the command, and all
    that was put on it is lost.
    """
    if address := configured_server():
        return address
    raise UsageError(
        f"headstart {command} needs a Prefect server that stays: set PREFECT_API_URL, such as "
        "http://127.0.0.1:4200/api, or use headstart up, which starts one and recovers its runs by itself"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def application() -> Any:
    """Prefect's server, which answers the names of this machine only: a page of another site, open in the same browser,
    may not reach it under a name of its own (DNS rebinding)."""
    from prefect.server.api.server import create_app
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = TrustedHostMiddleware(create_app(), allowed_hosts=["127.0.0.1", "localhost"])
    collect_as_usual()
    return app


if __name__ == "__main__":
    collect_rarely()
    import uvicorn

    end_with_input(lambda: os.kill(os.getpid(), signal.SIGTERM))
    uvicorn.run("flows.server:application", factory=True, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
