"""Where libraries keep their files: bytecode that Python may not write beside the sources, and homes that can't be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tasks.workspace import user_cache

PROBE = """
import sys, flows.places as bytecode
sys.dont_write_bytecode, sys.pycache_prefix = {forbidden}, None
bytecode._is_compiled = lambda package: {compiled}
bytecode.keep_bytecode()
import os
print([sys.dont_write_bytecode, sys.pycache_prefix, os.environ.get("PYTHONPYCACHEPREFIX")])
"""


def probe(cache: Path, *, forbidden: bool, compiled: bool, **variables: str) -> str:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    code = PROBE.format(forbidden=forbidden, compiled=compiled)
    command = [sys.executable, "-c", code]
    environ |= {"XDG_CACHE_HOME": str(cache), **variables}
    return subprocess.run(command, capture_output=True, text=True, env=environ, check=True).stdout.strip()


def test_it_goes_into_the_cache_where_it_would_go_nowhere(tmp_path: Path):
    folder = str(tmp_path / "headstart/bytecode")
    assert probe(tmp_path, forbidden=True, compiled=False) == str([False, folder, folder])


@pytest.mark.parametrize(("forbidden", "compiled"), [(False, False), (True, True)])
def test_nothing_is_changed_where_python_keeps_it_or_nothing_is_left_to_compile(
    tmp_path: Path, forbidden: bool, compiled: bool
):
    assert probe(tmp_path, forbidden=forbidden, compiled=compiled) == str([forbidden, None, None])


def test_a_cache_that_cannot_be_made_is_no_fault(tmp_path: Path):
    (tmp_path / "file").write_text("")
    nowhere = str(tmp_path / "file")
    assert probe(Path(nowhere), forbidden=True, compiled=False, HEADSTART_CACHE=nowhere) == str([True, None, None])


def homes(**variables: str) -> dict[str, str]:
    """What a process without a home that it can write gives to the libraries."""
    names = ["PREFECT_HOME", "KERAS_HOME", "TFDS_DATA_DIR"]
    code = f"import flows, json, os; print(json.dumps({{name: os.environ.get(name) for name in {names}}}))"
    kept = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**kept, **variables}, check=True
    )
    return json.loads(done.stdout)


def test_without_a_home_the_libraries_write_into_the_cache(tmp_path: Path):
    cache = tmp_path / "cache"
    given = homes(HOME=str(tmp_path / "absent"), HEADSTART_CACHE=str(cache), KERAS_HOME="/mine")
    expected = {"PREFECT_HOME": f"{cache}/prefect", "KERAS_HOME": "/mine"}
    assert given == {**expected, "TFDS_DATA_DIR": f"{cache}/tensorflow_datasets"}


def test_with_a_home_nothing_is_changed(tmp_path: Path):
    assert homes(HOME=str(tmp_path)) == {"PREFECT_HOME": None, "KERAS_HOME": None, "TFDS_DATA_DIR": None}


def test_a_cache_beside_the_temporary_files_is_the_user_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HEADSTART_CACHE", raising=False)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine = tmp_path / f"headstart-{os.getuid()}"
    assert user_cache("files") == mine / "files"
    assert mine.stat().st_mode & 0o777 == 0o700
    mine.chmod(0o777)
    with pytest.raises(PermissionError, match="set HEADSTART_CACHE"):
        user_cache("files")


def test_a_folder_with_names_like_ours_does_not_get_in_the_way(tmp_path: Path):
    """Where the user happens to be, there may be a `tasks.py` and a folder `flows`: child processes import ours."""
    (tmp_path / "flows").mkdir()
    for file in ("tasks.py", "flows/__init__.py"):
        (tmp_path / file).write_text("raise ImportError('not ours')")
    code = (
        "from flows.server import EphemeralServer\n"
        "from tasks.networks import keras_process\n"
        "import tasks\n"
        "server = EphemeralServer()\n"
        "keras_process.call(len, 'x')\n"
        "server.wait()\n"
        "server.stop()"
    )
    environ = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
