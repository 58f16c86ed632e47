"""Bytecode where Python may write none beside the sources: into the user's cache, unless all is compiled already."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROBE = """
import sys, flows.bytecode as bytecode
sys.dont_write_bytecode, sys.pycache_prefix = {forbidden}, None
bytecode._is_compiled = lambda package: {compiled}
bytecode.keep_bytecode()
import os
print([sys.dont_write_bytecode, sys.pycache_prefix, os.environ.get("PYTHONPYCACHEPREFIX")])
"""


def probe(cache: Path, *, forbidden: bool, compiled: bool) -> str:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    code = PROBE.format(forbidden=forbidden, compiled=compiled)
    command = [sys.executable, "-c", code]
    environ["XDG_CACHE_HOME"] = str(cache)
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
    assert probe(tmp_path / "file", forbidden=True, compiled=False) == str([True, None, None])
