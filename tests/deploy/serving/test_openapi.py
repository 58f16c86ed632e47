"""The server's own OpenAPI document, and what schemathesis makes of it: requests within it, and just outside it."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import psutil

from deploy.serving.app import PAGE_FILES
from deploy.serving.routes import router
from tests.deploy.serving.pictures import encoded

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
SETTINGS = Path(__file__).with_name("schemathesis.toml")


def test_every_route_is_documented_and_nothing_else(url):
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    documented = {(path, method.upper()) for path, at in paths.items() for method in at if method != "parameters"}
    assert documented == {(route.path, method) for route in router.routes for method in route.methods}  # type: ignore[attr-defined]
    assert not {*PAGE_FILES, "/openapi.json"} & paths.keys()


def test_the_document_names_the_model(url):
    document = httpx.get(f"{url}/openapi.json").json()
    (name,) = document["paths"]["/v2/models/{name}"]["get"]["parameters"]
    assert name["schema"] == {"enum": ["colours"]}


def test_what_is_never_answered_is_not_documented(url):
    document = httpx.get(f"{url}/openapi.json").text
    assert "422" not in document
    assert "ValidationError" not in document


def test_no_page_loads_scripts_from_elsewhere(url):
    assert [httpx.get(f"{url}/{page}").status_code for page in ("docs", "redoc")] == [404, 404]


def fuzz(url: str, folder: Path, *, examples: int) -> int:
    """The number of requests that schemathesis made, with nothing to say against any answer."""
    command = [SCHEMATHESIS, "--config-file", SETTINGS, "run", f"{url}/openapi.json", "--no-color"]
    done = subprocess.run(
        [*command, "--max-examples", str(examples)], cwd=folder, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated, done.stdout[-2000:]
    return int(generated[1])


def test_whatever_it_is_asked_it_answers_as_documented_and_keeps_no_memory(url, tmp_path):
    fuzz(url, tmp_path, examples=2)
    warmed = psutil.Process().memory_info().rss  # the server is in this process, what asks is not
    assert fuzz(url, tmp_path, examples=30) > 300
    assert psutil.Process().memory_info().rss - warmed < 20_000_000
    assert httpx.post(f"{url}/classify", content=encoded()).json()["label"] == "red"
    counted = dict(re.findall(r'headstart_requests_total\{.*status="(\d+)"\} (\S+)', httpx.get(f"{url}/metrics").text))
    assert {"200", "400"} <= counted.keys()
    assert not [status for status in counted if status.startswith("5")]
