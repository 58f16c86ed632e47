"""The demo as a newcomer runs it, on a machine whose network is cut off."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# In a network namespace of its own even the loopback interface is down; Prefect's server needs that one.
ALONE = """
import fcntl, os, socket, struct, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running
try:
    socket.create_connection(("192.0.2.1", 80), timeout=2)
    sys.exit("the network is not cut off")
except OSError:
    os.execv(sys.executable, [sys.executable, "-m", "flows.cli", *sys.argv[1:]])
"""


def unshared(*args: object, **environ: str) -> subprocess.CompletedProcess[str]:
    command = ["unshare", "--net", "--map-root-user", sys.executable, "-c", ALONE, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environ}, check=False)


@pytest.fixture(scope="module")
def no_network() -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--net", "--map-root-user", "true"]).returncode:
        pytest.skip("this machine lets nobody make a network namespace (unshare --net)")


@pytest.mark.slow
@pytest.mark.usefixtures("no_network")
def test_it_needs_no_network_and_shows_an_incremental_retrain(tmp_path: Path):
    done = unshared("demo", "--workspace", tmp_path / "w", "--json", KERAS_HOME=str(tmp_path / "no-weights"))
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)["runs"]
    assert (first["verdict"], first["version"], first["images"]["embedded"]) == ("promoted", 1, 1500)
    assert (second["images"]["new"], second["images"]["embedded"]) == (297, 297)
    assert second["verdict"] in ("promoted", "refused")
    assert second["metrics"]["test"]["accuracy"] >= 0.96
    decision = json.loads((tmp_path / "w/runs" / second["run_id"] / "decision.json").read_text())
    assert decision["comparison"]["n"] == second["metrics"]["test"]["n"]
    assert Path(second["report"]).stat().st_size > 10_000
