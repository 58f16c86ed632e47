"""`serve` as a process: what it needs, what it says, how it ends."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from deploy.serving.server import serve
from tasks.errors import ConfigError, UsageError
from tasks.workspace import Workspace
from tests.deploy.serving.models import publish
from tests.deploy.serving.pictures import encoded

ROOT = Path(__file__).parents[3]


def test_it_serves_until_it_is_told_to_stop(tmp_path):
    publish(tmp_path, 1)
    command = [sys.executable, "-m", "deploy.serving", "colours", "--workspace", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        url = next(found[1] for line in process.stderr if (found := re.search(r"serving on (http://127\S+)", line)))
        assert httpx.post(f"{url}/classify", content=encoded(), timeout=60).json()["label"] == "red"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)


def test_serving_needs_neither_tensorflow_nor_prefect():
    heavy = ["tensorflow", "keras", "prefect", "sklearn", "pandas", "matplotlib", "great_expectations", "cv2"]
    script = f"import sys, deploy.serving.server; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_an_unknown_name_is_refused_with_those_that_are_there(tmp_path):
    publish(tmp_path, 1)
    with pytest.raises(UsageError, match=r"no model 'clothing'.*published there: colours"):
        serve(Workspace(str(tmp_path)), "clothing")


def test_nothing_but_bad_versions_is_refused_with_the_reasons(tmp_path):
    publish(tmp_path, 1, content=b"no graph")
    with pytest.raises(UsageError, match=r"(?s)version 1: graph: model.onnx is not a valid ONNX graph"):
        serve(Workspace(str(tmp_path)), "colours")


def test_a_taken_port_is_named(tmp_path):
    publish(tmp_path, 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"can't listen on 127.0.0.1:{port}"):
            serve(Workspace(str(tmp_path)), "colours", port=port)


def test_a_key_that_cannot_be_read_stops_it_at_once(tmp_path):
    folder = publish(tmp_path, 1)
    (folder / "model.sig").write_text("{}")
    with pytest.raises(ConfigError, match=r"public key .*absent\.pem"):
        serve(Workspace(str(tmp_path)), "colours", public_key=str(tmp_path / "absent.pem"))
