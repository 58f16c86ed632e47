"""Nothing is reported to anyone: what a command leaves in an empty home."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.deploy.serving.models import publish
from tests.deploy.serving.pictures import encoded

ROOT = Path(__file__).parents[1]
FRESH = """
import numpy as np
from tasks.evaluate.fresh_process import predict_in_fresh_process
from tests.deploy.serving.models import colour_model
assert not predict_in_fresh_process(colour_model(), [{"image": np.zeros((1, 8, 8, 3), np.uint8)}], ["red"], 60).problem
"""
BARE = "import onnxruntime, sys; onnxruntime.InferenceSession(sys.argv[1])"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    publish(tmp_path / "w", 1)
    (tmp_path / "photo.jpg").write_bytes(encoded())
    return tmp_path / "home"


def environment(home: Path) -> dict[str, str]:
    """A user's own: no cache but the home's, and none of the variables by which ONNX Runtime knows a CI machine.

    On those (`CI`, `GITHUB_ACTIONS`, `TF_BUILD`, ...) it collects nothing by itself, and the tests would show nothing.
    """
    return {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT)}


def left_by_onnxruntime(home: Path) -> list[str]:
    return [str(path.relative_to(home)) for path in home.rglob("*") if "onnxruntime" in str(path.relative_to(home))]


def run(home: Path, *arguments: str) -> None:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=home.parent, env=environment(home), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_session_by_itself_leaves_something_there(home: Path):
    """What the others would leave, too: where this fails, ONNX Runtime has changed, and they show nothing any more."""
    run(home, "-c", BARE, "w/models/colours/1/model.onnx")
    assert any(path.endswith("deviceid") for path in left_by_onnxruntime(home))


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "flows.cli", "predict", "w/models/colours/1/model.onnx", "photo.jpg"],
        ["-m", "flows.cli", "predict", "colours", "photo.jpg", "--workspace", "w"],
        ["-m", "flows.cli", "verify", "w/models/colours/1"],
        ["-c", FRESH],
        ["-c", "import deploy.serving.model, onnxruntime, sys; " + BARE, "w/models/colours/1/model.onnx"],
    ],
    ids=["predict-file", "predict-name", "verify", "fresh-process", "server-imports"],
)
def test_a_command_leaves_nothing_there(home: Path, arguments: list[str]):
    run(home, *arguments)
    assert left_by_onnxruntime(home) == []


def test_the_server_leaves_nothing_there(home: Path):
    command = [sys.executable, "-m", "deploy.serving", "colours", "--workspace", "w", "--port", "0"]
    env = environment(home)
    with subprocess.Popen(command, cwd=home.parent, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        url = next(found[1] for line in process.stderr if (found := re.search(r"serving on (http://\S+)", line)))
        assert httpx.post(f"{url}/classify", content=encoded(), timeout=60).json()["label"] == "red"
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert left_by_onnxruntime(home) == []


def test_prefect_reports_nothing_and_shows_the_page_that_asks_nobody():
    code = (
        "import flows\nfrom prefect.settings import get_current_settings\n"
        "server = get_current_settings().server\nprint(server.analytics_enabled, server.ui.v2_enabled)"
    )
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True)
    assert done.stdout.split() == ["False", "False"]
