"""Imports point one way: logic never imports Prefect, and a stage imports no other stage."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = {"ingest", "validate", "split", "augment", "extract", "finetune", "export", "evaluate", "publish", "report"}
MODULES = sorted(path for path in (ROOT / "tasks").rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_logic_never_imports_prefect():
    logic = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in MODULES
        if path.name not in ("task.py", "__init__.py")
    ]
    probe = (
        f"import importlib, sys\nfor name in {logic!r}: importlib.import_module(name)\nprint('prefect' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_stage_imports_no_other_stage_and_no_flow(path: Path):
    names = imported(path)
    assert not any(name == "flows" or name.startswith("flows.") for name in names)
    home = path.relative_to(ROOT / "tasks").parts[0]
    if home in STAGES:
        others = {f"tasks.{stage}" for stage in STAGES - {home}}
        # A policy is a value that travels; extraction applies it.
        crossing = {name for name in names if name.startswith(tuple(f"{other}." for other in others))}
        assert {name for name in crossing if not name.startswith("tasks.augment.policy")} == set()
