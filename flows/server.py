"""Prefect's ephemeral server, started before Prefect is even imported.

Prefect starts the same server by itself, but only when the first flow runs: then its 8 s come after the 3 s of
Prefect's own import, and the other core idles. Where a server is configured (PREFECT_API_URL, or a profile), that
one is used and nothing is started.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from tasks.errors import HeadstartError
from tasks.garbage import collect_rarely

STARTUP_TIMEOUT_S = 120
# As Prefect starts its ephemeral server: no UI, no background services.
EPHEMERAL = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


class EphemeralServer:
    """A server process of this one's, on a free port of the loopback interface; its URL goes into the environment."""

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process that writes it
        port = _free_port()
        # The server ends with its standard input, and so with this process, however this one ends.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(port)],
            env={**os.environ, **EPHEMERAL},
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
        )
        self.api_url = f"http://127.0.0.1:{port}/api"
        os.environ["PREFECT_API_URL"] = self.api_url

    def wait(self) -> None:
        """Returns once the server answers. Raises HeadstartError where it does not come up."""
        deadline = time.monotonic() + STARTUP_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._log.seek(0)
                said = self._log.read().decode(errors="replace").strip()
                raise HeadstartError(f"Prefect's ephemeral server did not come up at {self.api_url}; it said:\n{said}")
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


def start_ephemeral_server() -> EphemeralServer | None:
    """A server that goes with this process, or None where the user has configured one.

    Call it before Prefect is imported: what is registered first at exit runs last, and Prefect, on its way out, still
    sends its last events.
    """
    if _is_configured():
        return None
    server = EphemeralServer()
    atexit.register(server.stop)
    return server


def _is_configured() -> bool:
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    return bool(os.environ.get("PREFECT_API_URL")) or (home / "profiles.toml").exists()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _stop_at_end_of_input() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    collect_rarely()
    import uvicorn

    threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
    application = "prefect.server.api.server:create_app"
    uvicorn.run(application, factory=True, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
