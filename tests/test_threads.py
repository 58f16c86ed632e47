"""Stages run side by side, so a matrix product takes one core."""

import os
import subprocess
import sys
from pathlib import Path

FOUND = """
import os, tasks, numpy, scipy.linalg
from threadpoolctl import threadpool_info
print(os.environ["OPENBLAS_NUM_THREADS"])
print(*(pool["num_threads"] for pool in threadpool_info() if pool["internal_api"] == "openblas"))
"""


def found(**given: str) -> list[str]:
    """The variable, and the threads of NumPy's and of SciPy's library, after `tasks` was imported."""
    environ = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"} | given
    command = [sys.executable, "-c", FOUND]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_matrix_product_takes_one_core_unless_the_user_says_otherwise():
    assert set(found()) == {"1"}
    assert found(OPENBLAS_NUM_THREADS="2")[0] == "2"
