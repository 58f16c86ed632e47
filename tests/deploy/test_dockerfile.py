"""The image's steps, outside a container: Docker is not everywhere, and the steps are what goes wrong."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import httpx
import pytest

from tests.deploy.serving.models import publish
from tests.deploy.serving.pictures import encoded

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def stage(name: str) -> str:
    return re.split(r"^FROM \S+ AS ", DOCKERFILE, flags=re.MULTILINE)[stages().index(name) + 1]


def stages() -> list[str]:
    return re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)


def test_a_linter_of_dockerfiles_has_nothing_to_say():
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(["hadolint", str(ROOT / "deploy" / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_everything_copied_is_in_the_build_context():
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists()
            assert source in allowed


def test_every_image_that_is_built_on_has_a_fixed_tag():
    assert "# syntax=" not in DOCKERFILE  # it would fetch another builder, by a tag that moves
    for image in re.findall(r"^FROM (\S+) AS", DOCKERFILE, re.MULTILINE):
        assert image in stages() or re.search(r":\d+\.\d+\.\d+", image), image


@pytest.mark.parametrize("name", ["serving", "worker"])
def test_the_images_do_not_run_as_root(name):
    assert re.search(r"^USER (?!0\b)\d+$", stage(name), re.MULTILINE)


def test_the_serving_group_repeats_the_bounds_of_the_dependencies():
    known = {re.sub(r"\s", "", each) for each in PROJECT["project"]["dependencies"]}
    known |= {
        re.sub(r"\s", "", each) for extra in PROJECT["project"]["optional-dependencies"].values() for each in extra
    }
    group = {re.sub(r"\s", "", each) for each in PROJECT["dependency-groups"]["serving"]}
    assert group <= known


def test_the_serving_image_serves(tmp_path):
    """Installs what the Dockerfile installs, copies what it copies, runs what it runs, and asks for an answer."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not on the path")
    app = tmp_path / "app"
    app.mkdir()
    for name in ("pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, app)
    install = re.search(r"RUN (uv sync .*)", stage("serving-packages"))
    assert install
    command = [part for part in install[1].split() if part not in ("--no-cache", "--link-mode=copy")]
    plain = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")}
    done = subprocess.run([*command, "--offline"], cwd=app, env=plain, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"uv's cache does not hold the packages: {done.stderr.strip().splitlines()[-1]}")
    for source, target in re.findall(r"^COPY (?!--from)(\S+) (\S+)$", stage("serving"), re.MULTILINE):
        (app / target).parent.mkdir(exist_ok=True)
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, app / target)
    publish(tmp_path / "workspace", 1)
    python = app / ".venv" / "bin" / "python"
    heavy = "import importlib.util as u; print([m for m in ('tensorflow', 'prefect', 'keras') if u.find_spec(m)])"
    assert subprocess.check_output([python, "-c", heavy], text=True).strip() == "[]"
    environment = {"HEADSTART_WORKSPACE": str(tmp_path / "workspace"), "PATH": os.environ["PATH"]}
    serve = [python, "-m", "deploy.serving", "--wait", "colours", "--port", "0"]
    with subprocess.Popen(serve, cwd=app, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        url = next(found[1] for line in process.stderr if (found := re.search(r"serving on (http://127\S+)", line)))
        assert httpx.post(f"{url}/classify", content=encoded("blue"), timeout=60).json()["label"] == "blue"
        explained = httpx.post(f"{url}/explain", content=encoded("blue"), timeout=60).json()
        assert (explained["label"], explained["nearest"]) == ("blue", [])
        assert explained["heat_map"]
        process.terminate()
