import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import importlib, threading, time
from flows.warmup import HEAVY

faults = []

def enter(*modules):
    try:
        for module in modules:
            importlib.import_module(module)
    except Exception as exc:
        faults.append(repr(exc))

ahead = threading.Thread(target=enter, args=HEAVY)
ahead.start()
time.sleep({delay_s})
enter("keras")
ahead.join()
print(faults)
"""


@pytest.mark.parametrize("delay_s", [0.3, 2.0])
def test_a_stage_may_import_keras_while_it_is_being_prepared(delay_s):
    command = [sys.executable, "-c", SCRIPT.format(delay_s=delay_s)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == "[]", done.stderr


TWICE = """
import os, sys, tempfile
from tasks.runs import new_run
from tasks.config import parse_config
from flows.warmup import preload

before = os.fstat(2)
run = new_run("", "twice", tempfile.mkdtemp(), parse_config({"backbone": {"name": "embedded"}}))
for thread in [preload(run), preload(run)]:
    thread.join()
after = os.fstat(2)
print((before.st_dev, before.st_ino) == (after.st_dev, after.st_ino), "pyarrow" in sys.modules)
"""


def test_preparing_twice_leaves_standard_error_where_it_was():
    done = subprocess.run([sys.executable, "-c", TWICE], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == "True True", done.stderr
